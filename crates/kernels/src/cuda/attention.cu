// Attention within packed sequences, for heads or masks that cuDNN's kernel is not asked for.
//
// The keys and values of a sequence pass by in tiles of 64 while a block keeps 64 queries, 16 a
// warp, and a running softmax (FlashAttention 2, Dao 2023), on the tensor cores' mma.m16n8k16.
//
// Compile-time: HEAD, the width of a head, a multiple of 16; CAUSAL.

#define TILE 64
#define STRIDE (HEAD + 8)  // of a row in shared memory, so that rows fall into different banks

__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void ldmatrix(u32 (&r)[4], const u16* at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((u32)__cvta_generic_to_shared(at)));
}

__device__ __forceinline__ void ldmatrix_t(u32 (&r)[4], const u16* at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((u32)__cvta_generic_to_shared(at)));
}

// `count` rows of a head to shared memory; rows past the end are zero.
__device__ __forceinline__ void load_tile(u16* to, const u16* from, u64 row_stride, int count) {
    for (int i = threadIdx.x; i < TILE * HEAD / 8; i += blockDim.x) {
        const int row = i / (HEAD / 8), column = i % (HEAD / 8) * 8;
        *(Vec8*)(to + row * STRIDE + column) =
            row < count ? *(const Vec8*)(from + row * row_stride + column) : Vec8{{0, 0, 0, 0}};
    }
}

extern "C" __global__ void __launch_bounds__(128)
    attention(const u16* qkv, u16* out, int heads, int kv_heads, float scale,
              const __grid_constant__ Ends ends) {
    extern __shared__ u16 shared[];
    u16 *keys = shared, *values = shared + TILE * STRIDE;
    const int item = blockIdx.z, head = blockIdx.y;
    const int start = item == 0 ? 0 : ends.ends[item - 1], len = ends.ends[item] - start;
    const int first = blockIdx.x * TILE;
    if (first >= len) return;
    const u64 row_stride = (u64)(heads + 2 * kv_heads) * HEAD;
    const u16* base = qkv + start * row_stride;
    const int kv_head = head / (heads / kv_heads);
    const u16* k_base = base + (heads + kv_head) * HEAD;
    const u16* v_base = k_base + kv_heads * HEAD;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    // Queries pass through the keys' memory once, into registers.
    load_tile(keys, base + first * row_stride + head * HEAD, row_stride, len - first);
    __syncthreads();
    u32 q[HEAD / 16][4];
#pragma unroll
    for (int k = 0; k < HEAD / 16; k++) {
        ldmatrix(q[k], keys + (warp * 16 + lane % 16) * STRIDE + k * 16 + lane / 16 * 8);
    }
    __syncthreads();

    float sums[HEAD / 8][4] = {};
    float highest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
    const int row = first + warp * 16 + lane / 4;  // and the one eight below
    const int limit = CAUSAL ? min(len, first + TILE) : len;
    for (int at = 0; at < limit; at += TILE) {
        load_tile(keys, k_base + at * row_stride, row_stride, len - at);
        load_tile(values, v_base + at * row_stride, row_stride, len - at);
        __syncthreads();
        float scores[TILE / 8][4] = {};
#pragma unroll
        for (int n = 0; n < TILE / 16; n++) {
#pragma unroll
            for (int k = 0; k < HEAD / 16; k++) {
                u32 b[4];
                ldmatrix(b, keys + (n * 16 + lane % 8 + lane / 16 * 8) * STRIDE + k * 16 +
                                lane / 8 % 2 * 8);
                mma(scores[2 * n], q[k], b[0], b[1]);
                mma(scores[2 * n + 1], q[k], b[2], b[3]);
            }
        }
        float now[2] = {highest[0], highest[1]};
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int key = at + n * 8 + lane % 4 * 2 + i % 2, query = row + i / 2 * 8;
                const bool seen = key < len && (!CAUSAL || key <= query);
                scores[n][i] = seen ? scores[n][i] * scale : -INFINITY;
                now[i / 2] = fmaxf(now[i / 2], scores[n][i]);
            }
        }
        float fade[2], shift[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            now[i] = fmaxf(now[i], __shfl_xor_sync(~0u, now[i], 1));
            now[i] = fmaxf(now[i], __shfl_xor_sync(~0u, now[i], 2));
            // A row past the end may have seen nothing yet.
            shift[i] = now[i] == -INFINITY ? 0.0f : now[i];
            fade[i] = __expf(highest[i] - shift[i]);
            highest[i] = now[i];
            total[i] *= fade[i];
        }
#pragma unroll
        for (int n = 0; n < HEAD / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sums[n][i] *= fade[i / 2];
        }
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                scores[n][i] = __expf(scores[n][i] - shift[i / 2]);
                total[i / 2] += scores[n][i];
            }
        }
#pragma unroll
        for (int k = 0; k < TILE / 16; k++) {
            const u32 p[4] = {pack(scores[2 * k][0], scores[2 * k][1]),
                              pack(scores[2 * k][2], scores[2 * k][3]),
                              pack(scores[2 * k + 1][0], scores[2 * k + 1][1]),
                              pack(scores[2 * k + 1][2], scores[2 * k + 1][3])};
#pragma unroll
            for (int n = 0; n < HEAD / 16; n++) {
                u32 b[4];
                ldmatrix_t(b, values + (k * 16 + lane % 16) * STRIDE + n * 16 + lane / 16 * 8);
                mma(sums[2 * n], p, b[0], b[1]);
                mma(sums[2 * n + 1], p, b[2], b[3]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        total[i] += __shfl_xor_sync(~0u, total[i], 1);
        total[i] += __shfl_xor_sync(~0u, total[i], 2);
        const int query = row + i * 8;
        if (query >= len) continue;
        u16* to = out + ((u64)(start + query) * heads + head) * HEAD + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < HEAD / 8; n++) {
            *(u32*)(to + n * 8) = pack(sums[n][2 * i] / total[i], sums[n][2 * i + 1] / total[i]);
        }
    }
}
