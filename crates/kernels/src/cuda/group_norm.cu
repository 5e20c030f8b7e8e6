// GroupNorm over channels-last pictures, in two passes: sums of each group, then the norm, with SiLU
// after it if asked. Sums are made in a fixed order, so that a picture is always the same.

// First pass: for each stretch of pixels, the sum and the sum of squares of each channel.
// A block is a stretch; its threads are the channels' vectors, several pixels side by side.
extern "C" __global__ void __launch_bounds__(256)
    group_sums(const Vec8* x, float2* partial, int pixels, int vectors, int stretch) {
    extern __shared__ float shared[];
    const int picture = blockIdx.y;
    const int lanes = blockDim.x / vectors;  // pixels at a time
    const int vector = threadIdx.x % vectors, lane = threadIdx.x / vectors;
    const int first = blockIdx.x * stretch, last = min(first + stretch, pixels);
    float sum[8] = {0, 0, 0, 0, 0, 0, 0, 0}, squares[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    const Vec8* rows = x + (u64)picture * pixels * vectors + vector;
    if (lane < lanes) {
#pragma unroll 4
        for (int pixel = first + lane; pixel < last; pixel += lanes) {
            float values[8];
            unpack(rows[(u64)pixel * vectors], values);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                sum[j] += values[j];
                squares[j] += values[j] * values[j];
            }
        }
    }
    // Over the pixels side by side, channel by channel.
    const int channels = vectors * 8;
    float* sums = shared;                                // [lanes][channels]
    float* squared = shared + blockDim.x / vectors * channels;
    if (lane < lanes) {
        for (int j = 0; j < 8; j++) {
            sums[lane * channels + vector * 8 + j] = sum[j];
            squared[lane * channels + vector * 8 + j] = squares[j];
        }
    }
    __syncthreads();
    for (int channel = threadIdx.x; channel < channels; channel += blockDim.x) {
        float a = 0.0f, b = 0.0f;
        for (int i = 0; i < lanes; i++) {
            a += sums[i * channels + channel];
            b += squared[i * channels + channel];
        }
        partial[((u64)picture * gridDim.x + blockIdx.x) * channels + channel] = make_float2(a, b);
    }
}

// Between the passes: a factor and an offset for each picture and channel, both times `share`. A block
// is a group of a picture.
extern "C" __global__ void __launch_bounds__(256)
    group_affine(const float2* partial, const u16* weight, const u16* bias, float2* affine,
                 int stretches, int channels, int in_group, double count, float eps, float share) {
    __shared__ double scratch[2][256];
    const int group = blockIdx.x, picture = blockIdx.y;
    double sum = 0.0, squares = 0.0;
    for (int i = threadIdx.x; i < stretches * in_group; i += blockDim.x) {
        const int stretch = i / in_group, channel = group * in_group + i % in_group;
        const float2 part = partial[((u64)picture * stretches + stretch) * channels + channel];
        sum += part.x;
        squares += part.y;
    }
    scratch[0][threadIdx.x] = sum;
    scratch[1][threadIdx.x] = squares;
    __syncthreads();
    for (int half = 128; half > 0; half >>= 1) {
        if (threadIdx.x < half) {
            scratch[0][threadIdx.x] += scratch[0][threadIdx.x + half];
            scratch[1][threadIdx.x] += scratch[1][threadIdx.x + half];
        }
        __syncthreads();
    }
    const double mean = scratch[0][0] / count;
    const double variance = fmax(scratch[1][0] / count - mean * mean, 0.0);
    const float factor = (float)(1.0 / sqrt(variance + (double)eps));
    for (int i = threadIdx.x; i < in_group; i += blockDim.x) {
        const int channel = group * in_group + i;
        const float w = __uint_as_float((u32)weight[channel] << 16) * factor * share;
        const float b = __uint_as_float((u32)bias[channel] << 16) * share;
        affine[(u64)picture * channels + channel] = make_float2(w, b - (float)mean * w);
    }
}

// Second pass.
extern "C" __global__ void __launch_bounds__(256)
    group_apply(const Vec8* x, const float4* affine, Vec8* out, u64 total, u64 in_picture,
                int vectors, int activate) {
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= total) return;
    const float4* a = affine + ((at / in_picture) * vectors + at % vectors) * 4;
    float values[8];
    unpack(x[at], values);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float4 pair = a[i];
        values[2 * i] = values[2 * i] * pair.x + pair.y;
        values[2 * i + 1] = values[2 * i + 1] * pair.z + pair.w;
    }
    if (activate) {
#pragma unroll
        for (int j = 0; j < 8; j++) values[j] = silu(values[j]);
    }
    out[at] = pack(values);
}
