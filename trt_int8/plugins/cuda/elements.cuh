// Rows of elements between memory and float registers: half or int8 in, half or int8 out, `width`
// neighbouring elements per thread in the fewest, widest accesses.
#pragma once

#include "ptx.cuh"

namespace elements {

// What a tensor of rows holds; the numbers are those of the macros X_KIND and RESIDUAL_KIND, where
// 0 says that there is no such tensor.
constexpr int kHalf = 1, kInt8 = 2;

// The element's type in memory; halves are raw bits.
template <int kind>
struct Stored {
    using Type = uint16_t;
};
template <>
struct Stored<kInt8> {
    using Type = int8_t;
};

// Eight bytes that move in one instruction; the address must be a multiple of eight.
struct alignas(8) Vector8 {
    uint32_t x, y;
};

// `bytes` bytes (1, 2, 4, 8, or a multiple of 16) of one thread, packed in words from the low byte.
template <int bytes>
struct Packed {
    static constexpr int kWords = (bytes + 3) / 4;
    uint32_t words[kWords];
};

// The address must be a multiple of min(bytes, 16).
template <int bytes>
PTX_INLINE Packed<bytes> load(const void* address) {
    Packed<bytes> packed;
    if constexpr (bytes >= 16) {
#pragma unroll
        for (int i = 0; i < bytes / 16; ++i) {
            const ptx::Vector16 part = ptx::load_16(static_cast<const uint8_t*>(address) + 16 * i);
            packed.words[4 * i + 0] = part.x;
            packed.words[4 * i + 1] = part.y;
            packed.words[4 * i + 2] = part.z;
            packed.words[4 * i + 3] = part.w;
        }
    } else if constexpr (bytes == 8) {
        const Vector8 part = *static_cast<const Vector8*>(address);
        packed.words[0] = part.x;
        packed.words[1] = part.y;
    } else if constexpr (bytes == 4) {
        packed.words[0] = *static_cast<const uint32_t*>(address);
    } else if constexpr (bytes == 2) {
        packed.words[0] = *static_cast<const uint16_t*>(address);
    } else {
        packed.words[0] = *static_cast<const uint8_t*>(address);
    }
    return packed;
}

// The address must be a multiple of min(bytes, 16).
template <int bytes>
PTX_INLINE void store(void* address, const Packed<bytes>& packed) {
    const uint32_t (&w)[Packed<bytes>::kWords] = packed.words;
    if constexpr (bytes >= 16) {
#pragma unroll
        for (int i = 0; i < bytes / 16; ++i) {
            ptx::store_16(static_cast<uint8_t*>(address) + 16 * i,
                          {w[4 * i], w[4 * i + 1], w[4 * i + 2], w[4 * i + 3]});
        }
    } else if constexpr (bytes == 8) {
        *static_cast<Vector8*>(address) = {w[0], w[1]};
    } else if constexpr (bytes == 4) {
        *static_cast<uint32_t*>(address) = w[0];
    } else if constexpr (bytes == 2) {
        *static_cast<uint16_t*>(address) = static_cast<uint16_t>(w[0]);
    } else {
        *static_cast<uint8_t*>(address) = static_cast<uint8_t>(w[0]);
    }
}

// Element i of packed halves; exact.
template <int bytes>
PTX_INLINE float half_at(const Packed<bytes>& packed, int i) {
    return ptx::half_to_float(static_cast<uint16_t>(packed.words[i / 2] >> (16 * (i % 2))));
}

// Element i of packed signed bytes; exact.
template <int bytes>
PTX_INLINE float int8_at(const Packed<bytes>& packed, int i) {
    return static_cast<float>(static_cast<int8_t>(packed.words[i / 4] >> (8 * (i % 4))));
}

// Rounds to nearest even; beyond the range of half gives infinity.
template <int width>
PTX_INLINE Packed<2 * width> pack_halves(const float (&values)[width]) {
    Packed<2 * width> packed;
#pragma unroll
    for (int i = 0; i < Packed<2 * width>::kWords; ++i) {
        packed.words[i] = ptx::float_to_half(values[2 * i]);
        if constexpr (width > 1) {
            packed.words[i] |= static_cast<uint32_t>(ptx::float_to_half(values[2 * i + 1])) << 16;
        }
    }
    return packed;
}

// Low bytes of `width` integers.
template <int width>
PTX_INLINE Packed<width> pack_bytes(const int (&codes)[width]) {
    Packed<width> packed;
    const uint32_t (&c)[width] = reinterpret_cast<const uint32_t (&)[width]>(codes);
    if constexpr (width >= 4) {
#pragma unroll
        for (int i = 0; i < width / 4; ++i) {
            // Byte 0 of each: two pairs, then the pairs side by side.
            const uint32_t low = ptx::permute_bytes(c[4 * i], c[4 * i + 1], 0x0040);
            const uint32_t high = ptx::permute_bytes(c[4 * i + 2], c[4 * i + 3], 0x0040);
            packed.words[i] = ptx::permute_bytes(low, high, 0x5410);
        }
    } else if constexpr (width == 2) {
        packed.words[0] = ptx::permute_bytes(c[0], c[1], 0x0040);
    } else {
        packed.words[0] = c[0];
    }
    return packed;
}

// round-half-even(value * inverse_scale), clamped to -128..127; NaN gives 0.
template <int width>
PTX_INLINE Packed<width> quantize(const float (&values)[width], float inverse_scale) {
    int codes[width];
#pragma unroll
    for (int i = 0; i < width; ++i) {
        codes[i] = ptx::float_to_s8(values[i] * inverse_scale);
    }
    return pack_bytes<width>(codes);
}

}  // namespace elements
