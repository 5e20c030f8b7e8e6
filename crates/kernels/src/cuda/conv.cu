// Convolutions on the tensor cores of compute capability 8.0 and newer: an implicit product whose rows
// are pixels and whose depth is taps times channels, bf16 with f32 sums, channels last.
//
// A block makes 16x8 pixels of BN channels. For 32 channels at a time it copies the pixels that its
// own see, border and all, to shared memory once, norms and activates them there, and multiplies all
// taps from it; the weights of a tap pass by in a ring of STAGES. Copies of the next channels run
// under the products of these.
//
// Compile-time choices:
//   BN       channels of a block: 32, 64 or 128
//   SIDE     taps in a row of them: 3, 2 or 1
//   STRIDE   pixels from one output pixel's taps to the next one's: 1 or 2
//   NORM     1: the input is silu(2 * (x * factor + offset)), zero beyond the border
//   DOUBLED  1: of a picture doubled first; an output pixel of each parity sees 2x2 taps
//   STAGES   stages of the ring

#define TILE_X 16
#define TILE_Y 8
#define BM (TILE_X * TILE_Y)
#define CHUNK 32
#define TAPS (SIDE * SIDE)
#define PATCH_X ((TILE_X - 1) * STRIDE + SIDE)
#define PATCH_Y ((TILE_Y - 1) * STRIDE + SIDE)
#define PIXELS (PATCH_X * PATCH_Y)
#define PATCH_BYTES (PIXELS * CHUNK * 2)
#define STAGE_BYTES (BN * CHUNK * 2)
// Chunks of channels that are copied ahead of the one that is multiplied.
#define AHEAD (TAPS == 1 ? STAGES - 1 : 1)
#define THREADS 128
#if NORM && TAPS == 1
#error "a single tap leaves no steps to norm the next channels in"
#endif
#define WARPS_N (BN >= 64 ? 2 : 1)
#define WARP_M (BM * WARPS_N / 4)
#define WARP_N (BN / WARPS_N)
#define ROUNDS ((PIXELS + THREADS / 4 - 1) / (THREADS / 4))
// Norms of the next channels, spread over the steps in which they can be made.
#define ROUNDS_A_STEP ((ROUNDS + TAPS - STAGES) / (TAPS - STAGES + 1))
// Of a row of finished values in shared memory, so that rows fall into different banks.
#define OUT_ROW (WARP_N * 2 + 16)

struct Args {
    const u16* x;
    const u16* weight;  // (columns, depth); with DOUBLED four of them, for each parity
    const u16* bias;
    const u16* residual;  // or null
    u16* out;
    const float2* affine;  // half a factor and an offset for each picture and channel, if NORM
    int channels, chunks;
    int height, width;          // of x
    int out_height, out_width;  // with DOUBLED, of one parity
    int tiles_x, tiles_y, n_tiles;
    int columns, depth, tap;  // `tap`: from the weights of a tap to those of the next
};

struct Place {
    int image, x, y;  // of the first output pixel
};

// 16 bytes of a row of 32 channels, so that eight rows that follow each other fall into different
// banks.
__device__ __forceinline__ u32 swizzled(int row, int vector) {
    return row * (CHUNK * 2) + ((vector ^ (row >> 1 & 3)) << 4);
}

// Whether this thread's pixel of a round is one of the picture, and where it lies there.
__device__ __forceinline__ bool pixel_of(const Args& args, const Place& place, int offset_x,
                                         int offset_y, int pixel, u64& at) {
    const int x = place.x * STRIDE + pixel % PATCH_X + offset_x;
    const int y = place.y * STRIDE + pixel / PATCH_X + offset_y;
    at = ((u64)place.image * args.height + y) * args.width + x;
    return x >= 0 && x < args.width && y >= 0 && y < args.height;
}

__device__ __forceinline__ void copy_patch(const Args& args, const Place& place, int offset_x,
                                           int offset_y, int chunk, u32 patch) {
    const int vector = threadIdx.x % 4, channel = chunk * CHUNK + vector * 8;
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        const int pixel = threadIdx.x / 4 + i * (THREADS / 4);
        if (pixel >= PIXELS) break;
        u64 at;
        const bool inside =
            pixel_of(args, place, offset_x, offset_y, pixel, at) && channel < args.channels;
        copy_async(patch + swizzled(pixel, vector),
                   inside ? args.x + at * args.channels + channel : args.x, inside);
    }
}

// silu of twice x.
__device__ __forceinline__ float silu_of_double(float x) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return x + x * y;
}

// What this thread copied in a round, normed and activated. Nobody else has seen it yet.
__device__ __forceinline__ void norm_round(const Args& args, const Place& place, int offset_x,
                                           int offset_y, int chunk, u32 patch, int round) {
    const int vector = threadIdx.x % 4, channel = chunk * CHUNK + vector * 8;
    const int pixel = threadIdx.x / 4 + round * (THREADS / 4);
    u64 at;
    if (pixel >= PIXELS || channel >= args.channels ||
        !pixel_of(args, place, offset_x, offset_y, pixel, at)) {
        return;
    }
    const float4* affine =
        (const float4*)(args.affine + (u64)place.image * args.channels + channel);
    const u32 address = patch + swizzled(pixel, vector);
    float values[8];
    unpack(load_shared(address), values);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const float4 pair = affine[j];
        values[2 * j] = silu_of_double(values[2 * j] * pair.x + pair.y);
        values[2 * j + 1] = silu_of_double(values[2 * j + 1] * pair.z + pair.w);
    }
    store_shared(address, pack(values));
}

__device__ __forceinline__ void copy_weights(const Args& args, const u16* weight, int first, int tap,
                                             int chunk, u32 stage) {
    const int vector = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < BN / (THREADS / 4); i++) {
        const int row = threadIdx.x / 4 + i * (THREADS / 4);
        const bool inside = first + row < args.columns;
        const u16* from = weight + (u64)(inside ? first + row : 0) * args.depth + tap * args.tap +
                          chunk * CHUNK + vector * 8;
        copy_async(stage + swizzled(row, vector), from, inside);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) conv(const __grid_constant__ Args args) {
    extern __shared__ __align__(128) unsigned char memory[];
    const u32 patches = shared_address(memory);
    const u32 stages = patches + (AHEAD + 1) * PATCH_BYTES;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_m = warp / WARPS_N, warp_n = warp % WARPS_N;

    // Blocks side by side share their pixels.
    const int first = blockIdx.x % args.n_tiles * BN, m = blockIdx.x / args.n_tiles;
    const int in_image = args.tiles_x * args.tiles_y, rest = m % in_image;
    const Place place = {m / in_image, rest % args.tiles_x * TILE_X, rest / args.tiles_x * TILE_Y};
    const int parity_x = DOUBLED ? blockIdx.y % 2 : 0, parity_y = DOUBLED ? blockIdx.y / 2 : 0;
    const int centred = SIDE == 3 && STRIDE == 1 ? -1 : 0;
    const int offset_x = DOUBLED ? parity_x - 1 : centred, offset_y = DOUBLED ? parity_y - 1 : centred;
    const u16* weight = args.weight + (u64)blockIdx.y * args.columns * args.depth;

    const int steps = args.chunks * TAPS;
    int next_tap = 0, next_chunk = 0;  // of the weights that are copied next
    const auto copy_next = [&](int step) {
        if (step < steps) {
            copy_weights(args, weight, first, next_tap, next_chunk,
                         stages + step % STAGES * STAGE_BYTES);
            if (++next_tap == TAPS) next_tap = 0, next_chunk++;
        }
    };
    const auto patch_of = [&](int chunk) { return patches + chunk % (AHEAD + 1) * PATCH_BYTES; };

#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < AHEAD && i < args.chunks) {
            copy_patch(args, place, offset_x, offset_y, i, patch_of(i));
        }
        copy_next(i);
        copies_commit();
    }
    if (NORM) {
        copies_wait<STAGES - 2>();
#pragma unroll 1
        for (int i = 0; i < ROUNDS; i++) {
            norm_round(args, place, offset_x, offset_y, 0, patch_of(0), i);
        }
    }

    float sums[WARP_M / 16][WARP_N / 8][4] = {};
    int step = 0;
#pragma unroll 1
    for (int chunk = 0; chunk < args.chunks; chunk++) {
        const u32 patch = patch_of(chunk);
#pragma unroll 1
        for (int tap = 0; tap < TAPS; tap++, step++) {
            copies_wait<STAGES - 2>();
            __syncthreads();
            if (tap == 0 && chunk + AHEAD < args.chunks) {
                copy_patch(args, place, offset_x, offset_y, chunk + AHEAD, patch_of(chunk + AHEAD));
            }
            copy_next(step + STAGES - 1);
            copies_commit();

            const u32 stage = stages + step % STAGES * STAGE_BYTES;
            const int corner = (warp_m * (WARP_M / 16) * STRIDE + tap / SIDE) * PATCH_X +
                               lane % 16 * STRIDE + tap % SIDE;
            const int row = warp_n * WARP_N + lane % 8 + lane / 16 * 8;
            u32 a[2][WARP_M / 16][4], b[2][WARP_N / 16][4];
            const auto load = [&](int part) {
#pragma unroll
                for (int i = 0; i < WARP_M / 16; i++) {
                    ldmatrix(a[part][i],
                             patch + swizzled(corner + i * STRIDE * PATCH_X, part * 2 + lane / 16));
                }
#pragma unroll
                for (int j = 0; j < WARP_N / 16; j++) {
                    ldmatrix(b[part][j], stage + swizzled(row + j * 16, part * 2 + lane / 8 % 2));
                }
            };
            load(0);
#pragma unroll
            for (int part = 0; part < 2; part++) {
                if (part == 0) load(1);
#pragma unroll
                for (int i = 0; i < WARP_M / 16; i++) {
#pragma unroll
                    for (int j = 0; j < WARP_N / 16; j++) {
                        mma(sums[i][2 * j], a[part][i], b[part][j][0], b[part][j][1]);
                        mma(sums[i][2 * j + 1], a[part][i], b[part][j][2], b[part][j][3]);
                    }
                }
            }
            // The next channels were asked for in the step of the first tap, and have come STAGES - 1
            // steps later.
            if (NORM && chunk + 1 < args.chunks) {
                const u32 next = patch_of(chunk + 1);
                for (int i = (tap - STAGES + 1) * ROUNDS_A_STEP;
                     i >= 0 && i < min(ROUNDS, (tap - STAGES + 2) * ROUNDS_A_STEP); i++) {
                    norm_round(args, place, offset_x, offset_y, chunk + 1, next, i);
                }
            }
        }
    }

    // Results pass through shared memory, so that the residual is read and they are written in whole
    // lines. A warp keeps to its own part of it.
    copies_wait<0>();
    __syncthreads();
    const u32 staged = patches + warp * WARP_M * OUT_ROW;
    const int column = first + warp_n * WARP_N;
    const int vectors = min(WARP_N, args.columns - column) / 8;
    const auto pass_lines = [&](bool in) {
#pragma unroll 4
        for (int i = lane; i < WARP_M * (WARP_N / 8); i += 32) {
            const int row = i / (WARP_N / 8), vector = i % (WARP_N / 8);
            const int x = place.x + row % TILE_X, y = place.y + warp_m * (WARP_M / 16) + row / TILE_X;
            if (vector >= vectors || x >= args.out_width || y >= args.out_height) continue;
            const u64 line = (u64)place.image * args.out_height + y;
            const u64 pixel = DOUBLED ? (line * 2 + parity_y) * (2 * args.out_width) + 2 * x + parity_x
                                      : line * args.out_width + x;
            const u64 index = pixel * args.columns + column + vector * 8;
            const u32 at = staged + row * OUT_ROW + vector * 16;
            if (in) {
                store_shared(at, *(const Vec8*)(args.residual + index));
            } else {
                *(Vec8*)(args.out + index) = load_shared(at);
            }
        }
        __syncwarp();
    };
    if (args.residual) pass_lines(true);
#pragma unroll
    for (int j = 0; j < WARP_N / 8; j++) {
        const int at = column + j * 8 + lane % 4 * 2;
        const u32 bias = at < args.columns ? *(const u32*)(args.bias + at) : 0;
#pragma unroll
        for (int i = 0; i < WARP_M / 16; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const u32 to =
                    staged + (i * 16 + half * 8 + lane / 4) * OUT_ROW + j * 16 + lane % 4 * 4;
                float one = sums[i][j][2 * half] + low(bias);
                float two = sums[i][j][2 * half + 1] + high(bias);
                if (args.residual) {
                    u32 pair;
                    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(pair) : "r"(to) : "memory");
                    one += low(pair), two += high(pair);
                }
                asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(pack(one, two)) : "memory");
            }
        }
    }
    __syncwarp();
    pass_lines(false);
}
