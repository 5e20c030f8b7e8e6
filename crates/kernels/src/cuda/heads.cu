// Queries and keys normed and rotated where they lie. A head is held by HEAD / 8 lanes.
//
// Compile-time: HEAD, the width of a head; HALVES, whether column i turns with column i + HEAD / 2
// (else with its neighbour).
#define LANES (HEAD / 8)
extern "C" __global__ void __launch_bounds__(256)
    qk_norm_rope(Vec8* qkv, const Vec8* q_weight, const Vec8* k_weight, const float* cos,
                 const float* sin, int tokens, int heads, int kv_heads, float eps) {
    const int turning = heads + kv_heads;
    // From the last to the first: the product before has just written the last.
    const u64 block = gridDim.x - 1 - blockIdx.x;
    const u64 index = (block * blockDim.x + threadIdx.x) / LANES;
    const int lane = threadIdx.x % LANES;
    // Whole warps leave together, or their spare lanes keep to the last head.
    const u64 count = (u64)tokens * turning;
    const bool spare = index >= count;
    const u64 at = spare ? count - 1 : index;
    const u64 token = at / turning;
    const int head = at % turning;
    Vec8* place = qkv + (token * (heads + 2 * kv_heads) + head) * LANES + lane;
    float x[8], w[8];
    unpack(*place, x);
    unpack((head < heads ? q_weight : k_weight)[lane], w);
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < 8; j++) sum += x[j] * x[j];
#pragma unroll
    for (int lanes = LANES / 2; lanes > 0; lanes >>= 1) sum += __shfl_xor_sync(~0u, sum, lanes);
    const float factor = rsqrtf(sum / HEAD + eps);
#pragma unroll
    for (int j = 0; j < 8; j++) x[j] *= factor * w[j];
    float turned[8];
    if (HALVES) {
        const int pair = lane % (LANES / 2) * 8;
        const float* c = cos + token * (HEAD / 2) + pair;
        const float* s = sin + token * (HEAD / 2) + pair;
        const float sign = lane < LANES / 2 ? -1.0f : 1.0f;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float partner = __shfl_xor_sync(~0u, x[j], LANES / 2);
            turned[j] = x[j] * c[j] + sign * partner * s[j];
        }
    } else {
        const float4 c = *(const float4*)(cos + token * (HEAD / 2) + lane * 4);
        const float4 s = *(const float4*)(sin + token * (HEAD / 2) + lane * 4);
        const float cs[4] = {c.x, c.y, c.z, c.w}, sn[4] = {s.x, s.y, s.z, s.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            turned[2 * j] = x[2 * j] * cs[j] - x[2 * j + 1] * sn[j];
            turned[2 * j + 1] = x[2 * j] * sn[j] + x[2 * j + 1] * cs[j];
        }
    }
    if (!spare) *place = pack(turned);
}
