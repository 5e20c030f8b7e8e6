// Norms, rotations and activations over the rows of a matrix, bf16 in and out, f32 between.
//
// Compile-time: VECTORS, how many times eight columns a thread holds of its row.

#define ROW_THREADS 128

// From the last row to the first: the product before has just written the last rows and the one after
// begins with the first, so both find more in the L2 cache.
__device__ __forceinline__ u64 row_of_block() { return gridDim.x - 1 - blockIdx.x; }

// Each thread's columns of a row; past the end they count as zero.
__device__ __forceinline__ void load_row(const Vec8* row, int vectors, float (&values)[VECTORS][8]) {
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = threadIdx.x + i * ROW_THREADS;
        const Vec8 v = at < vectors ? row[at] : Vec8{{0, 0, 0, 0}};
        unpack(v, values[i]);
    }
}

__device__ __forceinline__ float sum_of_squares(const float (&values)[VECTORS][8]) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
#pragma unroll
        for (int j = 0; j < 8; j++) sum += values[i][j] * values[i][j];
    }
    return sum;
}

// rms_norm(x) * weight, times the sequence's row of `scale` if there is one.
__device__ __forceinline__ void store_normed(float (&values)[VECTORS][8], float factor,
                                             const Vec8* weight, const Vec8* scale, Vec8* out,
                                             int vectors) {
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = threadIdx.x + i * ROW_THREADS;
        if (at >= vectors) continue;
        float w[8], result[8];
        unpack(weight[at], w);
#pragma unroll
        for (int j = 0; j < 8; j++) result[j] = values[i][j] * factor * w[j];
        if (scale) {
            float s[8];
            unpack(scale[at], s);
#pragma unroll
            for (int j = 0; j < 8; j++) result[j] *= s[j];
        }
        out[at] = pack(result);
    }
}

// `scale_stride`: vectors from one sequence's row of `scale` to the next one's.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    rms_norm(const Vec8* x, const Vec8* weight, const Vec8* scale, int scale_stride, Vec8* out,
             int vectors, float eps, const __grid_constant__ Ends ends) {
    __shared__ float scratch[ROW_THREADS / 32];
    const u64 row = row_of_block();
    float values[VECTORS][8];
    load_row(x + row * vectors, vectors, values);
    const float mean = block_sum(sum_of_squares(values), scratch) / (8 * vectors);
    const Vec8* scales = scale ? scale + (u64)sequence_of(ends, row) * scale_stride : scale;
    store_normed(values, rsqrtf(mean + eps), weight, scales, out + row * vectors, vectors);
}

// x + gate * rms_norm(y) * weight, and, where the next sublayer's weight is given, the norm that it
// begins with, of the sum just made.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    residual_gate_norm(const Vec8* x, const Vec8* y, const Vec8* weight, const Vec8* gate,
                       int gate_stride, Vec8* out, const Vec8* next_weight, const Vec8* next_scale,
                       int next_stride, Vec8* normed, int vectors, float eps,
                       const __grid_constant__ Ends ends) {
    __shared__ float scratch[2][ROW_THREADS / 32];
    const u64 row = row_of_block();
    const int item = sequence_of(ends, row);
    float sums[VECTORS][8], values[VECTORS][8];
    load_row(y + row * vectors, vectors, values);
    load_row(x + row * vectors, vectors, sums);
    const float factor =
        rsqrtf(block_sum(sum_of_squares(values), scratch[0]) / (8 * vectors) + eps);
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = threadIdx.x + i * ROW_THREADS;
        if (at >= vectors) continue;
        float w[8], g[8] = {1, 1, 1, 1, 1, 1, 1, 1};
        unpack(weight[at], w);
        if (gate) unpack(gate[(u64)item * gate_stride + at], g);
#pragma unroll
        for (int j = 0; j < 8; j++) sums[i][j] += g[j] * (values[i][j] * factor * w[j]);
        const Vec8 rounded = pack(sums[i]);
        out[row * vectors + at] = rounded;
        unpack(rounded, sums[i]);
    }
    if (!next_weight) return;
    const float mean = block_sum(sum_of_squares(sums), scratch[1]) / (8 * vectors);
    const Vec8* scales = next_scale ? next_scale + (u64)item * next_stride : next_scale;
    store_normed(sums, rsqrtf(mean + eps), next_weight, scales, normed + row * vectors, vectors);
}

// x + y, and the norm that the next sublayer begins with.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    add_rms_norm(const Vec8* x, const Vec8* y, Vec8* out, const Vec8* next_weight, Vec8* normed,
                 int vectors, float eps) {
    __shared__ float scratch[ROW_THREADS / 32];
    const u64 row = row_of_block();
    float sums[VECTORS][8], values[VECTORS][8];
    load_row(x + row * vectors, vectors, sums);
    load_row(y + row * vectors, vectors, values);
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = threadIdx.x + i * ROW_THREADS;
        if (at >= vectors) continue;
#pragma unroll
        for (int j = 0; j < 8; j++) sums[i][j] += values[i][j];
        const Vec8 rounded = pack(sums[i]);
        out[row * vectors + at] = rounded;
        unpack(rounded, sums[i]);
    }
    const float mean = block_sum(sum_of_squares(sums), scratch) / (8 * vectors);
    store_normed(sums, rsqrtf(mean + eps), next_weight, nullptr, normed + row * vectors, vectors);
}

// LayerNorm without weights, times the sequence's row of `scale`.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    layer_norm(const Vec8* x, const Vec8* scale, int scale_stride, Vec8* out, int vectors,
               float eps, const __grid_constant__ Ends ends) {
    __shared__ float scratch[2][ROW_THREADS / 32];
    const u64 row = row_of_block();
    float values[VECTORS][8];
    load_row(x + row * vectors, vectors, values);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
#pragma unroll
        for (int j = 0; j < 8; j++) sum += values[i][j];
    }
    const float mean = block_sum(sum, scratch[0]) / (8 * vectors);
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const bool inside = threadIdx.x + i * ROW_THREADS < vectors;
#pragma unroll
        for (int j = 0; j < 8; j++) values[i][j] = inside ? values[i][j] - mean : 0.0f;
    }
    const float variance = block_sum(sum_of_squares(values), scratch[1]) / (8 * vectors);
    store_normed(values, rsqrtf(variance + eps),
                 scale + (u64)sequence_of(ends, row) * scale_stride, nullptr,
                 out + row * vectors, vectors);
}
