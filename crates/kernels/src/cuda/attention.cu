// Attention within packed sequences, where cuDNN is missing or has no kernel for the head or the mask.
//
// The keys and values of a sequence pass by in tiles of KEYS while a block keeps 128 queries, 32 a
// warp, and a running softmax (FlashAttention 2, Dao 2023). Values are copied under the products of
// queries and keys, and the next keys under those with the values.
//
// Compile-time: HEAD, the width of a head, a multiple of 16; CAUSAL; KEYS, 64 or 32.

#define QUERIES 128
#define SLACK 8.0f
// Made after each of the products of 16 keys with 16 columns.
#define WEIGHTS ((16 + HEAD / 16 - 1) / (HEAD / 16))
#define THREADS 128
#define VECTORS (HEAD / 8)
// Rows of whole lines are swizzled, others padded, so that they fall into different banks.
#define SWIZZLED (HEAD % 64 == 0)
#define STRIDE (SWIZZLED ? HEAD : HEAD + 8)

// Where 8 columns of a row lie. Tiles begin at a multiple of 256 bytes.
__device__ __forceinline__ u32 place(u32 tile, int row, int vector) {
    return tile + (row * STRIDE + (SWIZZLED ? vector ^ (row & 7) : vector) * 8) * 2;
}

// And those 16 columns further, `steps` times.
__device__ __forceinline__ u32 along(u32 at, int steps) {
    return SWIZZLED ? at ^ (steps * 32) : at + steps * 32;
}

// `count` rows of a head to shared memory, and zeros for those past the end.
template <int ROWS>
__device__ __forceinline__ void copy_tile(u32 to, const u16* from, u64 row_stride, int count) {
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * VECTORS; i += THREADS) {
        const int row = i / VECTORS, vector = i % VECTORS;
        const bool inside = row < count;
        copy_async(place(to, row, vector), from + (inside ? row * row_stride + vector * 8 : 0),
                   inside);
    }
}

__device__ __forceinline__ float exp2_of(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention(const u16* qkv, u16* out, int heads, int kv_heads, float scale,
              const __grid_constant__ Ends ends) {
    extern __shared__ __align__(1024) unsigned char memory[];
    const u32 queries = shared_address(memory);
    const u32 keys = queries + QUERIES * STRIDE * 2, values = keys + KEYS * STRIDE * 2;
    const int item = blockIdx.z, head = blockIdx.y;
    const int start = item == 0 ? 0 : ends.ends[item - 1], len = ends.ends[item] - start;
    const int first = blockIdx.x * QUERIES;
    if (first >= len) return;
    const u64 row_stride = (u64)(heads + 2 * kv_heads) * HEAD;
    const u16* base = qkv + start * row_stride;
    const int kv_head = head / (heads / kv_heads);
    const u16* k_base = base + (heads + kv_head) * HEAD;
    const u16* v_base = k_base + kv_heads * HEAD;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float factor = scale * 1.44269504f;  // powers of two, not of e

    copy_tile<QUERIES>(queries, base + first * row_stride + head * HEAD, row_stride, len - first);
    copy_tile<KEYS>(keys, k_base, row_stride, len);
    copies_commit();

    // Of this lane's rows and columns in the first of the products' operands.
    const u32 q_at = place(queries, warp * 32 + lane % 16, lane / 16);
    const u32 k_at = place(keys, lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const u32 v_at = place(values, lane % 16, lane / 16);

    float sums[2][HEAD / 8][4] = {};
    // Times `factor`; weights are relative to `shift`.
    float shift[2][2], total[2][2];
#pragma unroll
    for (int i = 0; i < 4; i++) shift[i / 2][i % 2] = -INFINITY, total[i / 2][i % 2] = 0.0f;
    const int limit = CAUSAL ? min(len, first + QUERIES) : len;
#pragma unroll 1
    for (int at = 0; at < limit; at += KEYS) {
        copies_wait<0>();
        __syncthreads();
        copy_tile<KEYS>(values, v_base + at * row_stride, row_stride, len - at);
        copies_commit();

        float scores[2][KEYS / 8][4] = {};
#pragma unroll
        for (int k = 0; k < HEAD / 16; k++) {
            u32 a[2][4];
#pragma unroll
            for (int m = 0; m < 2; m++) {
                ldmatrix(a[m], along(q_at, k) + m * 16 * STRIDE * 2);
            }
#pragma unroll
            for (int n = 0; n < KEYS / 16; n++) {
                u32 b[4];
                ldmatrix(b, along(k_at, k) + n * 16 * STRIDE * 2);
#pragma unroll
                for (int m = 0; m < 2; m++) {
                    mma(scores[m][2 * n], a[m], b[0], b[1]);
                    mma(scores[m][2 * n + 1], a[m], b[2], b[3]);
                }
            }
        }
        copies_wait<0>();
        __syncthreads();
        if (at + KEYS < limit) {
            copy_tile<KEYS>(keys, k_base + (at + KEYS) * row_stride, row_stride, len - at - KEYS);
        }
        copies_commit();

        if (at + KEYS > len || (CAUSAL && at + KEYS > first)) {
#pragma unroll
            for (int m = 0; m < 2; m++) {
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const int key = at + n * 8 + lane % 4 * 2 + i % 2;
                        const int query = first + warp * 32 + m * 16 + lane / 4 + i / 2 * 8;
                        if (key >= len || (CAUSAL && key > query)) scores[m][n][i] = -INFINITY;
                    }
                }
            }
        }
        // Weights are relative to the highest score of some tile before: sums are only scaled anew
        // where a score is so much higher that weights would grow beyond 2^SLACK.
        float now[2][2];
        bool higher = false;
#pragma unroll
        for (int m = 0; m < 2; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float most = fmaxf(scores[m][0][2 * half], scores[m][0][2 * half + 1]);
#pragma unroll
                for (int n = 1; n < KEYS / 8; n++) {
                    most = fmaxf(most, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
                }
                now[m][half] = most * factor;
                higher |= now[m][half] > shift[m][half] + SLACK;
            }
        }
        if (__any_sync(~0u, higher)) {
#pragma unroll
            for (int m = 0; m < 2; m++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float most = now[m][half];
                    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
                    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
                    most = fmaxf(most, shift[m][half]);
                    // A row past the end may have seen nothing yet.
                    const float fade = most == -INFINITY ? 0.0f : exp2_of(shift[m][half] - most);
                    shift[m][half] = most;
                    total[m][half] *= fade;
#pragma unroll
                    for (int n = 0; n < HEAD / 8; n++) {
                        sums[m][n][2 * half] *= fade;
                        sums[m][n][2 * half + 1] *= fade;
                    }
                }
            }
        }
        float less[2][2];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float of = shift[i / 2][i % 2];
            less[i / 2][i % 2] = of == -INFINITY ? 0.0f : -of;
        }
        // The weights of 16 keys are 16 numbers of a thread. Those of the next keys are made between
        // the products of these, which other units make.
        const auto weigh = [&](int k, int i) {
            const int m = i / 8, half = i / 2 % 2;
            float& score = scores[m][2 * k + i / 4 % 2][i % 4];
            score = exp2_of(score * factor + less[m][half]);
            total[m][half] += score;
        };
#pragma unroll
        for (int i = 0; i < 16; i++) weigh(0, i);
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            u32 p[2][4];
#pragma unroll
            for (int m = 0; m < 2; m++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float* pair = &scores[m][2 * k + i / 2][i % 2 * 2];
                    p[m][i] = pack(pair[0], pair[1]);
                }
            }
#pragma unroll
            for (int n = 0; n < HEAD / 16; n++) {
                u32 b[4];
                ldmatrix_t(b, along(v_at, n) + k * 16 * STRIDE * 2);
#pragma unroll
                for (int m = 0; m < 2; m++) {
                    mma(sums[m][2 * n], p[m], b[0], b[1]);
                    mma(sums[m][2 * n + 1], p[m], b[2], b[3]);
                }
                if (k + 1 < KEYS / 16) {
#pragma unroll
                    for (int i = n * WEIGHTS; i < min(16, (n + 1) * WEIGHTS); i++) weigh(k + 1, i);
                }
            }
        }
    }
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float all = total[m][half];
            all += __shfl_xor_sync(~0u, all, 1);
            all += __shfl_xor_sync(~0u, all, 2);
            const int query = first + warp * 32 + m * 16 + lane / 4 + half * 8;
            if (query >= len) continue;
            const float share = 1.0f / all;
            u16* to = out + ((u64)(start + query) * heads + head) * HEAD + lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < HEAD / 8; n++) {
                *(u32*)(to + n * 8) =
                    pack(sums[m][n][2 * half] * share, sums[m][n][2 * half + 1] * share);
            }
        }
    }
}
