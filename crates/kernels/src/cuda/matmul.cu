// Matrix products and convolutions on Hopper's tensor cores: C = A B^T, bf16 with f32 sums.
//
// A warpgroup's producer thread has the copy engine (TMA) fill a ring of stages; two consumer
// warpgroups multiply them (wgmma), 64 rows of a tile each, and hand the tile to the copy engine.
// Blocks stay on their multiprocessor and take tile after tile, so that the next tile's loads run
// under this one's epilogue. Two neighbouring blocks (a cluster) share the operand they have in
// common: each loads half of it, for both.
//
// Compile-time choices:
//   BN        columns of a tile; its rows are always 128
//   STAGES    stages of the ring
//   SHARE_A   1: the cluster's tiles lie side by side and share A; 0: one above the other, share B
//   CONV      1: A's rows are pixels, gathered tap by tap; out-of-bounds pixels read as zero
//   GATED     1: columns come as eight gates, eight ups, ...; C = silu(gate) * up, half as wide
// `wgmma` for BN columns is generated and stands before this file.

#define BM 128
#define BK 64
#define TILE_X 16
#define TILE_Y 8
#define OUT_COLS (GATED ? BN / 2 : BN)
#define PANEL 8192
#define A_BYTES (BM * BK * 2)
#define B_BYTES (BN * BK * 2)

// Hints for the L2 cache, as CUTLASS' cute::TMA::CacheHintSm90 has them.
#define EVICT_NORMAL 0x1000000000000000ull
#define EVICT_FIRST 0x12F0000000000000ull

struct alignas(64) TensorMap {
    u64 words[16];
};

struct Args {
    int m_tiles;
    int n_tiles;  // a cluster's two count as one if they share A
    int k_steps;
    int group;
    // Convolutions: tiles of one picture, steps of 64 channels in a tap, taps in a row of them, and
    // the first tap's offset.
    int tiles_x, tiles_y;
    int channel_steps;
    int taps_x;
    int offset_x, offset_y;
    int columns;      // of C
    int residual;     // whether a picture like C is added
    const u16* bias;  // or null
};

__device__ __forceinline__ u32 shared_address(const void* pointer) {
    return (u32)__cvta_generic_to_shared(pointer);
}

__device__ __forceinline__ void barrier_init(u32 barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

__device__ __forceinline__ void barrier_expect(u32 barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void barrier_wait(u32 barrier, int parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra ready;\n"
        "bra again;\n"
        "ready:\n"
        "}\n" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// Arrives at the same barrier of a block of the cluster. What the arriving threads have read, wgmma
// read for them and has finished; a release at cluster scope would wait for all of memory at each
// step, and halve the speed.
__device__ __forceinline__ void barrier_arrive(u32 barrier, int block) {
    asm volatile(
        "{\n"
        ".reg .b32 remote;\n"
        "mapa.shared::cluster.u32 remote, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
        "}\n" ::"r"(barrier),
        "r"(block)
        : "memory");
}

__device__ __forceinline__ void load_2d(u32 to, const TensorMap* map, int x, int y, u32 barrier,
                                        u64 hint) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
        "l"(map), "r"(x), "r"(y), "r"(barrier), "l"(hint)
        : "memory");
}

__device__ __forceinline__ void load_2d_both(u32 to, const TensorMap* map, int x, int y,
                                             u32 barrier, u64 hint) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".multicast::cluster.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5, %6;" ::"r"(to),
        "l"(map), "r"(x), "r"(y), "r"(barrier), "h"((u16)3), "l"(hint)
        : "memory");
}

__device__ __forceinline__ void load_4d(u32 to, const TensorMap* map, int c, int x, int y, int n,
                                        u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
        "l"(map), "r"(c), "r"(x), "r"(y), "r"(n), "r"(barrier)
        : "memory");
}

__device__ __forceinline__ void load_4d_both(u32 to, const TensorMap* map, int c, int x, int y,
                                             int n, u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(to),
        "l"(map), "r"(c), "r"(x), "r"(y), "r"(n), "r"(barrier), "h"((u16)3)
        : "memory");
}

__device__ __forceinline__ void store_2d(u32 from, const TensorMap* map, int x, int y, u64 hint) {
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group.L2::cache_hint"
        " [%0, {%1, %2}], [%3], %4;" ::"l"(map),
        "r"(x), "r"(y), "r"(from), "l"(hint)
        : "memory");
}

__device__ __forceinline__ void store_4d(u32 from, const TensorMap* map, int c, int x, int y,
                                         int n) {
    asm volatile(
        "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3, %4}], [%5];" ::
            "l"(map), "r"(c), "r"(x), "r"(y), "r"(n), "r"(from)
        : "memory");
}

// A matrix in shared memory for wgmma: rows of 128 bytes, 128-byte swizzle, eight rows a kilobyte.
__device__ __forceinline__ u64 describe(u32 address) {
    return (u64)((address & 0x3ffff) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62);
}

__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

__device__ __forceinline__ void warpgroup_barrier(int id) {
    asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory");
}

struct Tile {
    int m, n;  // in tiles, this block's
};

// Tiles in groups of rows, column by column within a group, so that blocks that run at the same
// time read few different rows and columns. Blocks that share B take the next two of that order,
// whatever the number of rows.
__device__ __forceinline__ Tile tile_at(const Args& args, int index, int rank) {
    if (!SHARE_A) index = 2 * index + rank;
    const int in_group = args.group * args.n_tiles;
    const int first = index / in_group * args.group;
    const int rows = min(args.group, args.m_tiles - first);
    // One more than there are: it reads zeros and writes nothing.
    if (rows <= 0) return Tile{args.m_tiles, 0};
    const int rest = index % in_group;
    const int m = first + rest % rows, n = rest / rows;
    return SHARE_A ? Tile{m, 2 * n + rank} : Tile{m, n};
}

// Where A is more than a group of rows, what passes by is B and C: they go from the L2 cache first, so
// that the group's rows stay for the next column. Where all fits, the next kernel reads C from there.
__device__ __forceinline__ u64 passing(const Args& args) {
    return !CONV && args.m_tiles > args.group ? EVICT_FIRST : EVICT_NORMAL;
}

// Tiles for a cluster.
__device__ __forceinline__ int cluster_tiles(const Args& args) {
    const int tiles = args.m_tiles * args.n_tiles;
    return SHARE_A ? tiles : (tiles + 1) / 2;
}

struct Patch {
    int image, x, y;
};

__device__ __forceinline__ Patch patch_at(const Args& args, int m) {
    const int in_image = args.tiles_x * args.tiles_y;
    const int rest = m % in_image;
    return {m / in_image, rest % args.tiles_x * TILE_X, rest / args.tiles_x * TILE_Y};
}

__device__ __forceinline__ void produce(const TensorMap& map_a, const TensorMap& map_b,
                                        const Args& args, u32 stages, u32 full, u32 empty,
                                        int rank) {
    int stage = 0, parity = 1;
    const int tiles = cluster_tiles(args), clusters = gridDim.x / 2;
    for (int index = blockIdx.x / 2; index < tiles; index += clusters) {
        const Tile tile = tile_at(args, index, rank);
        const Patch patch = CONV ? patch_at(args, tile.m) : Patch{0, 0, 0};
        // At the foot of a column the neighbour has begun the next one.
        const bool share_b = !SHARE_A && tile_at(args, index, 1 - rank).n == tile.n;
        for (int k = 0; k < args.k_steps; k++) {
            const u32 a = stages + stage * (A_BYTES + B_BYTES), b = a + A_BYTES;
            const u32 ready = full + stage * 8;
            barrier_wait(empty + stage * 8, parity);
            barrier_expect(ready, A_BYTES + B_BYTES);
            if (CONV) {
                const int tap = k / args.channel_steps, c = k % args.channel_steps * BK;
                const int x = patch.x + tap % args.taps_x + args.offset_x;
                const int y = patch.y + tap / args.taps_x + args.offset_y;
                if (SHARE_A) {
                    load_4d_both(a + rank * (A_BYTES / 2), &map_a, c, x, y + rank * (TILE_Y / 2),
                                 patch.image, ready);
                } else {
                    load_4d(a, &map_a, c, x, y, patch.image, ready);
                }
            } else if (SHARE_A) {
                load_2d_both(a + rank * (A_BYTES / 2), &map_a, k * BK,
                             tile.m * BM + rank * (BM / 2), ready, EVICT_NORMAL);
            } else {
                load_2d(a, &map_a, k * BK, tile.m * BM, ready, EVICT_NORMAL);
            }
            if (SHARE_A) {
                load_2d(b, &map_b, k * BK, tile.n * BN, ready, passing(args));
            } else if (share_b) {
                load_2d_both(b + rank * (B_BYTES / 2), &map_b, k * BK,
                             tile.n * BN + rank * (BN / 2), ready, passing(args));
            } else {
                for (int half = 0; half < 2; half++) {
                    load_2d(b + half * (B_BYTES / 2), &map_b, k * BK,
                            tile.n * BN + half * (BN / 2), ready, passing(args));
                }
            }
            if (++stage == STAGES) {
                stage = 0;
                parity ^= 1;
            }
        }
    }
}

// The finished values of a warpgroup's 64 rows to shared memory, in panels of 64 columns that the
// copy engine reads with the same swizzle. `pairs[j]`: columns 8j and up of this thread's row, then
// of the row eight below.
__device__ __forceinline__ void stage_columns(u32 out, int block, u32 a0, u32 a1, u32 b0, u32 b1) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
    const int row = warp * 16 + (lane & 7) + (lane >> 3 & 1) * 8;
    const int column = block + (lane >> 4);
    const u32 address =
        out + column / 8 * PANEL + row * 128 + (((column & 7) ^ (row & 7)) << 4);
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
                 "r"(a0), "r"(a1), "r"(b0), "r"(b1)
                 : "memory");
}

// Two columns of a row that are there already: of this thread's row, or of the one eight below.
__device__ __forceinline__ u32 staged(u32 out, int block, int half) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
    const int row = warp * 16 + lane / 4 + half * 8;
    const u32 address = out + block / 8 * PANEL + row * 128 + (((block & 7) ^ (row & 7)) << 4) +
                        lane % 4 * 4;
    u32 pair;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(pair) : "r"(address));
    return pair;
}

// Has the copy engine put a warpgroup's part of the residual where its part of the result will be
// staged, while the products are made.
__device__ __forceinline__ void fetch_residual(const TensorMap& map_r, const Args& args,
                                               const Tile& tile, u32 out, u32 ready, int group) {
    // The last tile's panels must have been read before they are written again.
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
    const Patch patch = patch_at(args, tile.m);
    barrier_expect(ready, BM / 2 * OUT_COLS * 2);
#pragma unroll
    for (int panel = 0; panel < OUT_COLS / 64; panel++) {
        load_4d(out + panel * PANEL, &map_r, tile.n * OUT_COLS + panel * 64, patch.x,
                patch.y + group * (TILE_Y / 2), patch.image, ready);
    }
}

// Two of `silu(gate) * up`. The reciprocals are made as one, since the tensor cores wait for this and
// there are few units for them. Below -40 a sigmoid counts as the one there, 4e-18.
__device__ __forceinline__ u32 gated(float gate0, float gate1, float up0, float up1) {
    const float a = 1.0f + __expf(fminf(-gate0, 40.0f)), b = 1.0f + __expf(fminf(-gate1, 40.0f));
    const float both = __fdividef(1.0f, a * b);
    return pack(gate0 * up0 * (both * b), gate1 * up1 * (both * a));
}

__device__ __forceinline__ void finish(float (&sums)[BN / 2], const TensorMap& map_c,
                                       const Args& args, const Tile& tile, u32 out, int group) {
    const bool leader = threadIdx.x % 128 == 0;
    // The last tile's panels must have been read before they are written again.
    if (leader) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
    warpgroup_barrier(1 + group);

    const Patch patch = CONV ? patch_at(args, tile.m) : Patch{0, 0, 0};
    if (GATED) {
#pragma unroll
        for (int j = 0; j < BN / 32; j++) {
            u32 pairs[4];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float* gate = &sums[(4 * j + 2 * half) * 4];
                const float* up = gate + 4;
                pairs[2 * half] = gated(gate[0], gate[1], up[0], up[1]);
                pairs[2 * half + 1] = gated(gate[2], gate[3], up[2], up[3]);
            }
            stage_columns(out, 2 * j, pairs[0], pairs[1], pairs[2], pairs[3]);
        }
    } else {
        const int first = tile.n * BN + threadIdx.x % 4 * 2;
#pragma unroll
        for (int j = 0; j < BN / 16; j++) {
            u32 pairs[4];
#pragma unroll
            for (int block = 0; block < 2; block++) {
                float* sum = &sums[(2 * j + block) * 4];
                const int column = first + (2 * j + block) * 8;
                if (args.bias && column < args.columns) {
                    const u32 bias = *(const u32*)(args.bias + column);
                    sum[0] += low(bias), sum[1] += high(bias);
                    sum[2] += low(bias), sum[3] += high(bias);
                }
                if (CONV && args.residual) {
                    // It lies where the result is about to go, and only this warp reads it there.
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const u32 pair = staged(out, 2 * j + block, half);
                        sum[2 * half] += low(pair), sum[2 * half + 1] += high(pair);
                    }
                }
                pairs[2 * block] = pack(sum[0], sum[1]);
                pairs[2 * block + 1] = pack(sum[2], sum[3]);
            }
            stage_columns(out, 2 * j, pairs[0], pairs[1], pairs[2], pairs[3]);
        }
    }

    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    warpgroup_barrier(1 + group);
    if (leader) {
#pragma unroll
        for (int panel = 0; panel < OUT_COLS / 64; panel++) {
            const int column = tile.n * OUT_COLS + panel * 64;
            if (CONV) {
                store_4d(out + panel * PANEL, &map_c, column, patch.x,
                         patch.y + group * (TILE_Y / 2), patch.image);
            } else {
                store_2d(out + panel * PANEL, &map_c, column, tile.m * BM + group * 64, passing(args));
            }
        }
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    }
}

__device__ __forceinline__ void consume(const TensorMap& map_c, const TensorMap& map_r,
                                        const Args& args, u32 stages, u32 out, u32 full, u32 empty,
                                        int rank, int group) {
    int stage = 0, parity = 0, residual_parity = 0;
    const u32 residual = empty + STAGES * 8 + group * 8;
    const int thread = threadIdx.x % 128;
    const int tiles = cluster_tiles(args), clusters = gridDim.x / 2;
    float sums[BN / 2];
    for (int index = blockIdx.x / 2; index < tiles; index += clusters) {
        const Tile tile = tile_at(args, index, rank);
        if (CONV && args.residual && thread == 0) {
            fetch_residual(map_r, args, tile, out, residual, group);
        }
        int before = -1;
        for (int k = 0; k < args.k_steps; k++) {
            const u32 base = stages + stage * (A_BYTES + B_BYTES);
            const u64 a = describe(base + group * (A_BYTES / 2)), b = describe(base + A_BYTES);
            barrier_wait(full + stage * 8, parity);
            wgmma_fence();
#pragma unroll
            for (int part = 0; part < BK / 16; part++) {
                wgmma(sums, a + 2 * part, b + 2 * part, k > 0 || part > 0);
            }
            wgmma_commit();
            // The products of the stage before are done: both blocks may load into it again.
            wgmma_wait<1>();
            if (before >= 0 && thread < 2) barrier_arrive(empty + before * 8, thread);
            before = stage;
            if (++stage == STAGES) {
                stage = 0;
                parity ^= 1;
            }
        }
        wgmma_wait<0>();
        if (thread < 2) barrier_arrive(empty + before * 8, thread);
        if (CONV && args.residual) {
            barrier_wait(residual, residual_parity);
            residual_parity ^= 1;
        }
        finish(sums, map_c, args, tile, out, group);
    }
    if (thread == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)
    matmul(const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b,
           const __grid_constant__ TensorMap map_c, const __grid_constant__ TensorMap map_r,
           const __grid_constant__ Args args) {
    extern __shared__ unsigned char memory[];
    const u32 stages = (shared_address(memory) + 1023) & ~1023u;
    const u32 out = stages + STAGES * (A_BYTES + B_BYTES);
    const u32 full = out + BM * OUT_COLS * 2;
    const u32 empty = full + STAGES * 8;
    const int rank = blockIdx.x % 2;

    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; stage++) {
            barrier_init(full + stage * 8, 1);
            // Two warpgroups in each of two blocks.
            barrier_init(empty + stage * 8, 4);
        }
        for (int group = 0; group < 2; group++) barrier_init(empty + (STAGES + group) * 8, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                     : "memory");

    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
        if (threadIdx.x == 0) produce(map_a, map_b, args, stages, full, empty, rank);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
        const int group = threadIdx.x / 128 - 1;
        consume(map_c, map_r, args, stages, out + group * (OUT_COLS / 64) * PANEL, full, empty, rank,
                group);
    }
    // A block's memory must stay while its neighbour still signals or loads into it.
    // The producer's warp may be apart, so this is not the aligned form.
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
