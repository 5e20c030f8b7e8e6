// What every kernel here uses. No headers: NVRTC finds none on a machine without the toolkit.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;

#define INFINITY __int_as_float(0x7f800000)

struct alignas(16) Vec8 {
    u32 pairs[4];
};

// bf16 pairs as f32 and back; the lower half of a word is the first of the two.
__device__ __forceinline__ float low(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ __forceinline__ u16 half_bits(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// To bf16, which GPUs have since Ampere, or to f16.
__device__ __forceinline__ u32 pack(float first, float second) {
#if PACK_F16
    return half_bits(first) | (u32)half_bits(second) << 16;
#else
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
#endif
}

__device__ __forceinline__ void unpack(const Vec8& v, float (&out)[8]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        out[2 * i] = low(v.pairs[i]);
        out[2 * i + 1] = high(v.pairs[i]);
    }
}

__device__ __forceinline__ Vec8 pack(const float (&values)[8]) {
    Vec8 v;
#pragma unroll
    for (int i = 0; i < 4; i++) v.pairs[i] = pack(values[2 * i], values[2 * i + 1]);
    return v;
}

__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes >>= 1) x += __shfl_xor_sync(~0u, x, lanes);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes >>= 1) x = fmaxf(x, __shfl_xor_sync(~0u, x, lanes));
    return x;
}

// Sum over a block; every thread gets it. `scratch` holds a float a warp and may be used again
// after the next barrier.
__device__ __forceinline__ float block_sum(float x, float* scratch) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0.0f;
    for (u32 warp = 0; warp < blockDim.x / 32; warp++) total += scratch[warp];
    return total;
}

// Where packed sequences end, by value: no table to upload.
struct Ends {
    int count;
    int ends[31];
};

__device__ __forceinline__ int sequence_of(const Ends& ends, int row) {
    int item = 0;
    while (item + 1 < ends.count && row >= ends.ends[item]) item++;
    return item;
}
