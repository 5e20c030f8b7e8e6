// silu(gate) * up for rows of eight gates, eight ups, and so on.
extern "C" __global__ void __launch_bounds__(256)
    swiglu(const Vec8* gate_up, Vec8* out, u64 vectors) {
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= vectors) return;
    float gate[8], up[8];
    unpack(gate_up[2 * at], gate);
    unpack(gate_up[2 * at + 1], up);
#pragma unroll
    for (int j = 0; j < 8; j++) gate[j] = silu(gate[j]) * up[j];
    out[at] = pack(gate);
}

// Softmax of f32 rows times `scale`, rounded to bf16. `columns` is a multiple of 4.
extern "C" __global__ void __launch_bounds__(1024)
    softmax(const float4* scores, uint2* out, int columns, float scale) {
    __shared__ float scratch[2][32];
    const int vectors = columns / 4;
    const float4* row = scores + (u64)blockIdx.x * vectors;
    float highest = -INFINITY;
    for (int i = threadIdx.x; i < vectors; i += blockDim.x) {
        const float4 v = row[i];
        highest = fmaxf(highest, fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)));
    }
    highest = warp_max(highest);
    if (threadIdx.x % 32 == 0) scratch[0][threadIdx.x / 32] = highest;
    __syncthreads();
    for (u32 warp = 0; warp < blockDim.x / 32; warp++) highest = fmaxf(highest, scratch[0][warp]);
    float sum = 0.0f;
    for (int i = threadIdx.x; i < vectors; i += blockDim.x) {
        const float4 v = row[i];
        sum += __expf((v.x - highest) * scale) + __expf((v.y - highest) * scale) +
               __expf((v.z - highest) * scale) + __expf((v.w - highest) * scale);
    }
    const float factor = 1.0f / block_sum(sum, scratch[1]);
    uint2* to = out + (u64)blockIdx.x * vectors;
    for (int i = threadIdx.x; i < vectors; i += blockDim.x) {
        const float4 v = row[i];
        to[i] = make_uint2(
            pack(__expf((v.x - highest) * scale) * factor, __expf((v.y - highest) * scale) * factor),
            pack(__expf((v.z - highest) * scale) * factor, __expf((v.w - highest) * scale) * factor));
    }
}
