// Memory instructions: 16-byte words, the block's shared memory, asynchronous copies.
// Included by ptx.cuh, which says how the two branches work.
#pragma once

// Declares `name`, the dynamic shared memory of the block: bytes, 16-byte aligned, as many as the
// launch asked for. A kernel has no other shared memory.
#if PTX_DEVICE
#define SHARED_MEMORY(name) extern __shared__ __align__(16) uint8_t name[]
#else
#define SHARED_MEMORY(name) uint8_t* const name = ::simt_shared_memory()
#endif

namespace ptx {

// Sixteen bytes that move in one instruction (ld.v4, st.v4); the address must be 16-byte aligned.
struct alignas(16) Vector16 {
    uint32_t x, y, z, w;
};

PTX_INLINE Vector16 load_16(const void* address PTX_AND_SITE) {
#if !PTX_DEVICE
    ::simt::check_aligned_16(address, site);
#endif
    return *static_cast<const Vector16*>(address);
}

PTX_INLINE void store_16(void* address, const Vector16& value PTX_AND_SITE) {
#if !PTX_DEVICE
    ::simt::check_aligned_16(address, site);
#endif
    *static_cast<Vector16*>(address) = value;
}

#if PTX_DEVICE
// The 32-bit address inside shared memory that ldmatrix and cp.async want (PTX ISA "cvta").
PTX_INLINE uint32_t shared_address(const void* shared) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
#endif

// Starts a copy of 16 bytes into shared memory; both addresses 16-byte aligned. Only the first
// `valid_bytes` (0..16) are read, the rest becomes zero, so a masked row needs no branch; the
// global address must lie inside its buffer even then. Done after cp_async_commit and
// cp_async_wait by this thread, and seen by others after a barrier.
// sm_80: PTX ISA "cp.async" with src-size, .cg as nothing is read twice through L1.
// sm_75 has no such instruction: the copy is made at once.
PTX_INLINE void cp_async_16(void* shared, const void* global, int valid_bytes PTX_AND_SITE) {
#if PTX_DEVICE && TARGET_SM >= 80
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(valid_bytes)
                 : "memory");
#elif PTX_DEVICE
    // Bytes go straight to shared memory: an array indexed at run time would land on the stack.
    store_16(shared, valid_bytes == 16 ? load_16(global) : Vector16{0, 0, 0, 0});
    if (valid_bytes < 16) {
#pragma unroll 1
        for (int i = 0; i < valid_bytes; ++i) {
            static_cast<uint8_t*>(shared)[i] = static_cast<const uint8_t*>(global)[i];
        }
    }
#else
    ::simt::cp_async_16(shared, global, valid_bytes, TARGET_SM >= 80, site);
#endif
}

// Closes the group of copies started since the last commit (PTX ISA "cp.async.commit_group").
PTX_INLINE void cp_async_commit() {
#if PTX_DEVICE && TARGET_SM >= 80
    asm volatile("cp.async.commit_group;" ::: "memory");
#elif !PTX_DEVICE
    ::simt::cp_async_commit();
#endif
}

// Waits until at most `newest` of this thread's groups are still under way
// (PTX ISA "cp.async.wait_group"). A barrier must follow before other threads' bytes are read.
template <int newest>
PTX_INLINE void cp_async_wait() {
#if PTX_DEVICE && TARGET_SM >= 80
    asm volatile("cp.async.wait_group %0;" ::"n"(newest) : "memory");
#elif !PTX_DEVICE
    ::simt::cp_async_wait(newest);
#endif
}

}  // namespace ptx
