// Packed weights to bf16: f32 arithmetic in the order of the CPU's, one rounding, 16-byte stores. Each
// thread makes eight values that are adjacent in a row. `__fmul_rn` and its kind keep the compiler from
// fusing a product with a sum, which would round differently from the CPU.

typedef unsigned char u8;

__device__ __forceinline__ float f16(u32 bits) {
    float value;
    asm("{ .reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h; }" : "=f"(value) : "r"(bits));
    return value;
}

// Blocks are aligned to two bytes only.
__device__ __forceinline__ u32 u16_at(const u8* at) { return *(const u16*)at; }
__device__ __forceinline__ float half_at(const u8* at) { return f16(u16_at(at)); }
__device__ __forceinline__ u32 u32_at(const u8* at) { return u16_at(at) | u16_at(at + 2) << 16; }
__device__ __forceinline__ u64 u64_at(const u8* at) { return u32_at(at) | (u64)u32_at(at + 4) << 32; }
__device__ __forceinline__ u32 byte_of(u64 bytes, int i) { return (u32)(bytes >> (8 * i)) & 255; }

__device__ __forceinline__ float iq4(u32 code) {
    const signed char table[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    return (float)table[code];
}

__device__ __forceinline__ float e5m2(u32 byte) { return f16(byte << 8); }

__device__ __forceinline__ float e4m3(u32 byte) {
    const u32 sign = byte >> 7 << 31, exponent = byte >> 3 & 15, fraction = byte & 7;
    if (exponent == 15 && fraction == 7) return __uint_as_float(sign | 0x7fc00000u);
    // 2^-9 times the fraction is exact.
    if (exponent == 0) return __uint_as_float(sign | __float_as_uint(__fmul_rn((float)fraction, 0.001953125f)));
    return __uint_as_float(sign | (exponent + 120) << 23 | fraction << 20);
}

__device__ __forceinline__ float e2m1(u32 code) {
    const u32 halves = 0xc8643210u >> ((code & 7) * 4) & 15;
    const float value = (float)halves * 0.5f;
    return code & 8 ? -value : value;
}

// Values `column` to `column + 7` of a row, `column` a multiple of eight.
#if FORMAT == F_F32
__device__ __forceinline__ void eight(const u8* row, int column, float (&out)[8]) {
    const float4* at = (const float4*)(row + 4 * column);
    const float4 a = at[0], b = at[1];
    out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
    out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
}
#elif FORMAT == F_F16 || FORMAT == F_BF16
__device__ __forceinline__ void eight(const u8* row, int column, float (&out)[8]) {
    const Vec8 v = *(const Vec8*)(row + 2 * column);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const u32 bits = v.pairs[i / 2] >> (16 * (i % 2)) & 0xffff;
        out[i] = FORMAT == F_F16 ? f16(bits) : __uint_as_float(bits << 16);
    }
}
#elif FORMAT == F_Q4_0 || FORMAT == F_Q4_1 || FORMAT == F_Q5_0 || FORMAT == F_Q5_1 || FORMAT == F_IQ4_NL
__device__ __forceinline__ void eight(const u8* row, int column, float (&out)[8]) {
    const bool least = FORMAT == F_Q4_1 || FORMAT == F_Q5_1;
    const bool five = FORMAT == F_Q5_0 || FORMAT == F_Q5_1;
    const int codes = 2 + (least ? 2 : 0) + (five ? 4 : 0);
    const u8* block = row + column / 32 * (codes + 16);
    const int first = column % 32;
    const float d = half_at(block), m = least ? half_at(block + 2) : 0.0f;
    const u32 high = five ? u32_at(block + codes - 4) >> first : 0;
    const u64 bytes = u64_at(block + codes + first % 16) >> (first / 16 * 4);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const u32 code = (byte_of(bytes, i) & 15) | (high >> i & 1) << 4;
        if (least) out[i] = __fadd_rn(__fmul_rn(d, (float)code), m);
        else if (FORMAT == F_IQ4_NL) out[i] = __fmul_rn(d, iq4(code));
        else out[i] = __fmul_rn(d, (float)code - (five ? 16.0f : 8.0f));
    }
}
#elif FORMAT == F_Q8_0
__device__ __forceinline__ void eight(const u8* row, int column, float (&out)[8]) {
    const u8* block = row + column / 32 * 34;
    const float d = half_at(block);
    const u64 bytes = u64_at(block + 2 + column % 32);
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = __fmul_rn(d, (float)(signed char)byte_of(bytes, i));
}
#elif FORMAT == F_Q2_K || FORMAT == F_Q3_K
// Two bits of eight weights: 32 bytes hold four planes of 32 weights.
__device__ __forceinline__ u64 two_bits(const u8* codes, int weight) {
    return u64_at(codes + weight / 128 * 32 + weight % 32) >> (weight / 32 % 4 * 2) & 0x0303030303030303ull;
}
#if FORMAT == F_Q2_K
__device__ __forceinline__ void eight(const u8* row, int column, float (&out)[8]) {
    const u8* block = row + column / 256 * 84;
    const int weight = column % 256;
    const u32 scale = block[weight / 16];
    const float d = __fmul_rn(half_at(block + 80), (float)(scale & 15));
    const float least = __fmul_rn(half_at(block + 82), (float)(scale >> 4));
    const u64 codes = two_bits(block + 16, weight);
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = __fsub_rn(__fmul_rn(d, (float)byte_of(codes, i)), least);
}
#else
__device__ __forceinline__ void eight(const u8* row, int column, float (&out)[8]) {
    const u8* block = row + column / 256 * 110;
    const int weight = column % 256, run = weight / 16;
    const u8* scales = block + 96;
    const u32 low = scales[run % 8] >> (run / 8 * 4) & 15, high = scales[8 + run % 4] >> (run / 4 * 2) & 3;
    const float d = __fmul_rn(half_at(block + 108), (float)(low | high << 4) - 32.0f);
    const u64 codes = two_bits(block + 32, weight);
    const u64 set = u64_at(block + weight % 32) >> (weight / 32);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float code = (float)byte_of(codes, i) - (float)((byte_of(set, i) & 1 ^ 1) << 2);
        out[i] = __fmul_rn(d, code);
    }
}
#endif
#elif FORMAT == F_Q4_K || FORMAT == F_Q5_K
__device__ __forceinline__ void eight(const u8* row, int column, float (&out)[8]) {
    const bool five = FORMAT == F_Q5_K;
    const u8* block = row + column / 256 * (five ? 176 : 144);
    const int weight = column % 256, run = weight / 32, first = weight % 32;
    const u8* packed = block + 4;
    u32 scale, lowest;
    if (run < 4) {
        scale = packed[run] & 63, lowest = packed[run + 4] & 63;
    } else {
        const u32 low = packed[run + 4];
        scale = (low & 15) | (packed[run - 4] >> 2 & 48);
        lowest = low >> 4 | (packed[run] >> 2 & 48);
    }
    const float d = __fmul_rn(half_at(block), (float)scale);
    const float least = __fmul_rn(half_at(block + 2), (float)lowest);
    const u64 high = five ? u64_at(block + 16 + first) >> run : 0;
    const u64 codes = u64_at(block + (five ? 48 : 16) + run / 2 * 32 + first) >> (run % 2 * 4);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const u32 code = (byte_of(codes, i) & 15) | (byte_of(high, i) & 1) << 4;
        out[i] = __fsub_rn(__fmul_rn(d, (float)code), least);
    }
}
#elif FORMAT == F_Q6_K
__device__ __forceinline__ void eight(const u8* row, int column, float (&out)[8]) {
    const u8* block = row + column / 256 * 210;
    const int weight = column % 256, part = weight / 128, place = weight % 128;
    const float d = __fmul_rn(half_at(block + 208), (float)(signed char)block[192 + weight / 16]);
    const u64 low = u64_at(block + part * 64 + place % 64) >> (place / 64 * 4);
    const u64 high = u64_at(block + 128 + part * 32 + place % 32) >> (place / 32 * 2);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const u32 code = (byte_of(low, i) & 15) | (byte_of(high, i) & 3) << 4;
        out[i] = __fmul_rn(d, (float)code - 32.0f);
    }
}
#elif FORMAT == F_IQ4_XS
__device__ __forceinline__ void eight(const u8* row, int column, float (&out)[8]) {
    const u8* block = row + column / 256 * 136;
    const int run = column % 256 / 32, first = column % 32;
    const u32 low = block[4 + run / 2] >> (run % 2 * 4) & 15, high = u16_at(block + 2) >> (2 * run) & 3;
    const float d = __fmul_rn(half_at(block), (float)(low | high << 4) - 32.0f);
    const u64 codes = u64_at(block + 8 + run * 16 + first % 16) >> (first / 16 * 4);
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = __fmul_rn(d, iq4(byte_of(codes, i) & 15));
}
#elif FORMAT == F_E4M3 || FORMAT == F_E5M2 || FORMAT == F_INT8
// Behind 16 bytes with the row's scale.
__device__ __forceinline__ void eight(const u8* row, int column, float (&out)[8]) {
    const float scale = __uint_as_float(u32_at(row));
    const u64 bytes = u64_at(row + 16 + column);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const u32 byte = byte_of(bytes, i);
        const float value = FORMAT == F_E4M3 ? e4m3(byte) : FORMAT == F_E5M2 ? e5m2(byte) : (float)(signed char)byte;
        out[i] = __fmul_rn(value, scale);
    }
}
#elif FORMAT == F_NVFP4
__device__ __forceinline__ void eight(const u8* row, int column, float (&out)[8]) {
    const u8* block = row + 16 + column / 16 * 9;
    const float scale = __fmul_rn(__uint_as_float(u32_at(row)), e4m3(block[0]));
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const u32 byte = block[1 + column % 16 / 2 + i];
        out[2 * i] = __fmul_rn(e2m1(byte >> 4), scale);
        out[2 * i + 1] = __fmul_rn(e2m1(byte & 15), scale);
    }
}
#elif FORMAT == F_MXFP8
__device__ __forceinline__ void eight(const u8* row, int column, float (&out)[8]) {
    const u8* block = row + column / 32 * 33;
    const float scale = __uint_as_float((u32)block[0] << 23);
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = __fmul_rn(e4m3(block[1 + column % 32 + i]), scale);
}
#endif

// Where a row goes: after `first` others, or with the halves of all rows in turns.
__device__ __forceinline__ u64 place(u32 row, u32 first, u32 all, u32 turn) {
    row += first;
    if (turn == 0) return row;
    const u32 upper = row >= all / 2, within = row - (upper ? all / 2 : 0);
    return (u64)(within / turn) * 2 * turn + upper * turn + within % turn;
}

#if GROUP == 0
// A thread for eight values; blocks of the second axis are rows.
extern "C" __global__ void __launch_bounds__(256)
    expand(const u8* packed, Vec8* out, u64 row_bytes, u32 rows, u32 vectors, u32 first, u32 all, u32 turn) {
    const u32 at = blockIdx.y * blockDim.x + threadIdx.x;
    if (at >= vectors) return;
    const u32 row = blockIdx.x;
    float values[8];
    eight(packed + row * row_bytes, at * 8, values);
    out[place(row, first, all, turn) * vectors + at] = pack(values);
}
#else
// A block for a group of rotated values of a row; see `rotate` of the CPU, whose sums these are.
extern "C" __global__ void __launch_bounds__(256)
    expand(const u8* packed, Vec8* out, u64 row_bytes, u32 rows, u32 vectors, u32 first, u32 all, u32 turn) {
    __shared__ float values[GROUP];
    const u32 row = blockIdx.x, group = blockIdx.y;
    const u8* bytes = packed + row * row_bytes;
    const u8* codes = bytes + 16 + group * GROUP;
    for (u32 i = threadIdx.x; i < GROUP; i += blockDim.x) values[i] = (float)(signed char)codes[i];
    for (u32 step = 1; step < GROUP; step *= 4) {
        __syncthreads();
        for (u32 quad = threadIdx.x; quad < GROUP / 4; quad += blockDim.x) {
            float* at = values + quad / step * 4 * step + quad % step;
            const float w = at[0], x = at[step], y = at[2 * step], z = at[3 * step];
            const float sum = w + x, last = y + z, cross = w - x, rest = y - z;
            at[0] = sum + rest;
            at[step] = sum - rest;
            at[2 * step] = cross + last;
            at[3 * step] = last - cross;
        }
    }
    __syncthreads();
    // The root is a power of two.
    const float scale = __fdiv_rn(__uint_as_float(u32_at(bytes)), ROOT);
    Vec8* to = out + place(row, first, all, turn) * vectors + group * (GROUP / 8);
    for (u32 i = threadIdx.x; i < GROUP / 8; i += blockDim.x) {
        float eight_values[8];
#pragma unroll
        for (int j = 0; j < 8; j++) eight_values[j] = __fmul_rn(values[8 * i + j], scale);
        to[i] = pack(eight_values);
    }
}
#endif
