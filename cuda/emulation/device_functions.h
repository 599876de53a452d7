/* device_functions.h (emulation) - what kernels call: barriers, exchanges, atomic operations, loads, bits of numbers.
 * Part of cuda_runtime.h.
 */
#ifndef HYB_EMULATION_DEVICE_FUNCTIONS_H
#define HYB_EMULATION_DEVICE_FUNCTIONS_H

inline void __syncthreads() { hyb_emulation::give_way(hyb_emulation::AT_BLOCK_BARRIER); }
inline void __syncwarp(unsigned mask = ~0u) { hyb_emulation::give_way(hyb_emulation::AT_WARP_BARRIER, mask); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline unsigned __activemask() { return ~0u; }

template <class T> inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    int lane = (int)(hyb_emulation::current & 31);
    return hyb_emulation::exchange(mask, value, (unsigned)((lane & ~(width - 1)) + (source & (width - 1))));
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    int lane = (int)(hyb_emulation::current & 31), source = lane ^ bits;
    return hyb_emulation::exchange(mask, value, (source & ~(width - 1)) <= lane ? (unsigned)source : 32u);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = (int)(hyb_emulation::current & 31), source = lane + (int)delta;
    return hyb_emulation::exchange(mask, value, (source ^ lane) < width && source < 32 ? (unsigned)source : 32u);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = (int)(hyb_emulation::current & 31), source = lane - (int)delta;
    return hyb_emulation::exchange(mask, value, source >= (lane & ~(width - 1)) ? (unsigned)source : 32u);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    unsigned votes = 0, first = hyb_emulation::current & ~31u;
    hyb_emulation::fibers[hyb_emulation::current].given = predicate != 0;
    hyb_emulation::give_way(hyb_emulation::AT_WARP_BARRIER, mask);
    for (unsigned lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) votes |= (unsigned)hyb_emulation::fibers[first + lane].given << lane;
    hyb_emulation::give_way(hyb_emulation::AT_WARP_BARRIER, mask);
    return votes;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
template <class T, class Combine> inline T hyb_reduce_warp(unsigned mask, T value, Combine combine) {
    unsigned first = hyb_emulation::current & ~31u;
    T result = value;
    hyb_emulation::fibers[hyb_emulation::current].given = (uint64_t)(uint32_t)value;
    hyb_emulation::give_way(hyb_emulation::AT_WARP_BARRIER, mask);
    for (unsigned lane = 0; lane < 32; ++lane)
        if ((mask >> lane & 1) && first + lane != hyb_emulation::current)
            result = combine(result, (T)(uint32_t)hyb_emulation::fibers[first + lane].given);
    hyb_emulation::give_way(hyb_emulation::AT_WARP_BARRIER, mask);
    return result;
}
/* Of 32-bit integers, as processors from 8.0 on have them. */
template <class T> inline T __reduce_add_sync(unsigned mask, T value) {
    return hyb_reduce_warp(mask, value, [](T a, T b) { return (T)((uint32_t)a + (uint32_t)b); });
}
template <class T> inline T __reduce_max_sync(unsigned mask, T value) {
    return hyb_reduce_warp(mask, value, [](T a, T b) { return a < b ? b : a; });
}
template <class T> inline T __reduce_min_sync(unsigned mask, T value) {
    return hyb_reduce_warp(mask, value, [](T a, T b) { return b < a ? b : a; });
}
inline int __syncthreads_or(int predicate) {
    using namespace hyb_emulation;
    fibers[current].given = predicate != 0;
    give_way(AT_BLOCK_BARRIER);
    int any = 0;
    for (unsigned i = 0; i < n_threads; ++i) any |= !fibers[i].done && fibers[i].given != 0;
    give_way(AT_BLOCK_BARRIER);
    return any;
}

template <class T> inline T atomicAdd(T *p, T value) {
    T before = *p;
    *p = before + value;
    return before;
}
template <class T> inline T atomicMax(T *p, T value) {
    T before = *p;
    *p = before < value ? value : before;
    return before;
}
template <class T> inline T atomicMin(T *p, T value) {
    T before = *p;
    *p = value < before ? value : before;
    return before;
}
template <class T> inline T atomicOr(T *p, T value) {
    T before = *p;
    *p = before | value;
    return before;
}
template <class T> inline T atomicExch(T *p, T value) {
    T before = *p;
    *p = value;
    return before;
}
template <class T> inline T atomicCAS(T *p, T expected, T value) {
    T before = *p;
    if (before == expected) *p = value;
    return before;
}

template <class T> inline T __ldg(const T *p) { return *p; }
template <class T> inline T __ldcs(const T *p) { return *p; }
template <class T> inline T __ldcg(const T *p) { return *p; }
template <class T> inline void __stcs(T *p, T value) { *p = value; }
inline uint32_t __float_as_uint(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float __uint_as_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline int32_t __float_as_int(float x) { return (int32_t)__float_as_uint(x); }
inline float __int_as_float(int32_t bits) { return __uint_as_float((uint32_t)bits); }
inline long long __double_as_longlong(double x) {
    long long bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline double __longlong_as_double(long long bits) {
    double x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline int __float2int_rn(float x) { return (int)std::nearbyint(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
    uint64_t bytes = (uint64_t)high << 32 | low;
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) {
        uint32_t s = selector >> (4 * i) & 15, byte = (uint32_t)(bytes >> (8 * (s & 7))) & 255;
        if (s & 8) byte = byte & 128 ? 255 : 0;
        result |= byte << (8 * i);
    }
    return result;
}
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; ++i) c += (int8_t)(a >> (8 * i)) * (int8_t)(b >> (8 * i));
    return c;
}

using std::max;
using std::min;

#endif /* HYB_EMULATION_DEVICE_FUNCTIONS_H */
