// f32 times a factor as f16, four values a thread. What is beyond f16's range becomes its largest value,
// which a sum forgives; NaN stays, so that it is seen.
extern "C" __global__ void __launch_bounds__(256)
    narrow(const float* x, u16* out, u64 count, float factor) {
    const u64 first = 4 * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    if (first >= count) return;
    const float most = 65504.0f;
    u16 values[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float value = first + i < count ? x[first + i] * factor : 0.0f;
        if (value == value) value = fminf(fmaxf(value, -most), most);
        values[i] = half_bits(value);
    }
    if (first + 4 <= count) {
        *(uint2*)(out + first) = make_uint2(values[0] | (u32)values[1] << 16, values[2] | (u32)values[3] << 16);
    } else {
        for (int i = 0; first + i < count; i++) out[first + i] = values[i];
    }
}
