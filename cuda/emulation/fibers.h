/* fibers.h (emulation) - a block of threads as fibres: stacks, turns, barriers, and what the threads of a warp or of a
 * warpgroup do together: exchanges, asynchronous copies, products of the tensor cores. Part of cuda_runtime.h.
 */
#ifndef HYB_EMULATION_FIBERS_H
#define HYB_EMULATION_FIBERS_H

namespace hyb_emulation {

constexpr size_t STACK_BYTES = 64 << 10;

/* ---- where a fibre is: a stack and what it will go on with ---- */

#if defined(__x86_64__)
typedef void *Place; /* top of its stack: the address to go on at, then the registers that calls preserve */

/* Ten times as fast as swapcontext, which asks the system for the signal mask each time. 128 bytes below the stack
 * pointer belong to the function that runs. */
__attribute__((noinline)) inline void switch_to(Place *from, Place *to) {
    asm volatile("leaq -128(%%rsp), %%rsp\n\t"
                 "pushq %%rbp\n\tpushq %%rbx\n\tpushq %%r12\n\tpushq %%r13\n\tpushq %%r14\n\tpushq %%r15\n\t"
                 "leaq 1f(%%rip), %%rax\n\tpushq %%rax\n\t"
                 "movq %%rsp, (%%rdi)\n\tmovq (%%rsi), %%rsp\n\tret\n"
                 "1:\n\t"
                 "popq %%r15\n\tpopq %%r14\n\tpopq %%r13\n\tpopq %%r12\n\tpopq %%rbx\n\tpopq %%rbp\n\t"
                 "leaq 128(%%rsp), %%rsp"
                 : "+D"(from), "+S"(to)
                 :
                 : "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",
                   "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory",
                   "cc");
}

inline void begin_at(Place *place, char *stack, void (*function)()) {
    uintptr_t top = ((uintptr_t)stack + STACK_BYTES) & ~(uintptr_t)15;
    void **frame = (void **)(top - 16); /* a function begins 8 bytes below a multiple of 16 */
    frame[0] = (void *)function;
    *place = frame;
}
#else
typedef ucontext_t Place;

inline void switch_to(Place *from, Place *to) { swapcontext(from, to); }

inline void begin_at(Place *place, char *stack, void (*function)()) {
    getcontext(place);
    place->uc_stack.ss_sp = stack;
    place->uc_stack.ss_size = STACK_BYTES;
    place->uc_link = nullptr;
    makecontext(place, function, 0);
}
#endif

enum Wait { RUNNING, AT_BLOCK_BARRIER, AT_WARP_BARRIER, AT_WARPGROUP_BARRIER };

struct Copy {
    void *to;
    const void *from; /* null: clear */
    size_t n;
    unsigned group;
};

/* A warpgroup's product, as one of its threads sees it. */
struct Product {
    int *sums;
    std::vector<int> added;
    const int8_t *watched[2]; /* 16 bytes each of its right operand, and what they were */
    int8_t seen[32];
    unsigned group;
};

struct Fiber {
    Place place;
    std::vector<char> stack;
    bool done = false;
    Wait wait = RUNNING;
    unsigned mask = 0; /* lanes that it waits for */
    uint64_t given = 0;
    std::vector<Copy> copies; /* asynchronous ones that nobody waited for yet */
    unsigned n_groups = 0;
    uint32_t fragment[6];          /* its part of a matrix product's operands */
    std::vector<Product> products; /* asynchronous ones that nobody waited for yet */
    unsigned n_product_groups = 0;
    bool has_hidden_copies = false; /* arrived, but not shown to asynchronous products */
    bool is_fenced = false;         /* its registers are, for them */
};

inline std::vector<Fiber> fibers;
inline Place scheduler;
inline unsigned current, n_threads;
inline std::function<void()> body;
inline std::vector<char> dynamic_shared;
inline std::recursive_mutex running;

[[noreturn]] inline void stop(const char *problem) {
    std::fprintf(stderr, "CUDA emulation: %s (block %u %u %u, thread %u %u %u)\n", problem, blockIdx.x, blockIdx.y,
                 blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    std::abort();
}

inline void enter(unsigned thread) {
    current = thread;
    threadIdx = dim3(thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / (blockDim.x * blockDim.y));
}

inline void fiber_main() {
    body();
    fibers[current].done = true;
    switch_to(&fibers[current].place, &scheduler);
}

inline void give_way(Wait wait, unsigned mask = 0) {
    Fiber &fiber = fibers[current];
    fiber.wait = wait;
    fiber.mask = mask;
    switch_to(&fiber.place, &scheduler);
}

inline void start(Fiber &fiber) {
    if (fiber.stack.empty()) fiber.stack.resize(STACK_BYTES);
    fiber.done = false;
    fiber.wait = RUNNING;
    fiber.copies.clear();
    fiber.n_groups = 0;
    fiber.products.clear();
    fiber.n_product_groups = 0;
    fiber.has_hidden_copies = fiber.is_fenced = false;
    begin_at(&fiber.place, fiber.stack.data(), fiber_main);
}

/* The order in which the threads of a warp, and the warps of a block, get their turn. */
inline const std::vector<unsigned> &order() {
    static std::vector<unsigned> places;
    if (places.size() == n_threads) return places;
    places.resize(n_threads);
    for (unsigned i = 0; i < n_threads; ++i) places[i] = i;
    const char *name = std::getenv("HYB_EMULATION_ORDER");
    if (name != nullptr && std::strcmp(name, "descending") == 0) std::reverse(places.begin(), places.end());
    if (name != nullptr && std::strcmp(name, "shuffled") == 0)
        for (unsigned i = n_threads; i > 1; --i) std::swap(places[i - 1], places[(i * 2654435761u >> 8) % i]);
    return places;
}

/* Lets the warps go on whose lanes have all arrived. */
inline bool release_warps() {
    bool released = false;
    for (unsigned first = 0; first < n_threads; first += 32)
        for (unsigned i = first; i < std::min(first + 32, n_threads); ++i) {
            if (fibers[i].done || fibers[i].wait != AT_WARP_BARRIER) continue;
            unsigned mask = fibers[i].mask, arrived = 0;
            for (unsigned lane = 0; lane < 32 && first + lane < n_threads; ++lane) {
                const Fiber &other = fibers[first + lane];
                if (!other.done && other.wait == AT_WARP_BARRIER && other.mask == mask) arrived |= 1u << lane;
            }
            if (!(mask >> (i - first) & 1)) stop("a lane is not in the mask of its own exchange");
            if ((arrived & mask) != mask) continue;
            for (unsigned lane = 0; lane < 32; ++lane)
                if (mask >> lane & 1) fibers[first + lane].wait = RUNNING;
            released = true;
        }
    return released;
}

/* Lets the warpgroups go on of which all 128 threads have arrived. */
inline bool release_warpgroups() {
    bool released = false;
    for (unsigned first = 0; first + 128 <= n_threads; first += 128) {
        unsigned n_arrived = 0;
        for (unsigned i = first; i < first + 128; ++i)
            n_arrived += !fibers[i].done && fibers[i].wait == AT_WARPGROUP_BARRIER;
        if (n_arrived != 128) continue;
        for (unsigned i = first; i < first + 128; ++i) fibers[i].wait = RUNNING;
        released = true;
    }
    return released;
}

inline bool release_block() {
    for (unsigned i = 0; i < n_threads; ++i)
        if (!fibers[i].done && fibers[i].wait != AT_BLOCK_BARRIER) return false;
    for (unsigned i = 0; i < n_threads; ++i) fibers[i].wait = RUNNING;
    return true;
}

inline void run_block() {
    for (unsigned i = 0; i < n_threads; ++i) start(fibers[i]);
    for (;;) {
        bool all_done = true;
        for (unsigned i : order()) {
            if (fibers[i].done) continue;
            all_done = false;
            if (fibers[i].wait != RUNNING) continue;
            enter(i);
            switch_to(&scheduler, &fibers[i].place);
            /* A warpgroup goes on as soon as it may, ahead of the others. */
            if (fibers[i].wait == AT_WARPGROUP_BARRIER && release_warpgroups()) break;
        }
        if (all_done) return;
        if (!release_warps() && !release_warpgroups() && !release_block()) {
            for (unsigned i = 0; i < n_threads; ++i)
                if (!fibers[i].done && fibers[i].wait == RUNNING) goto next;
            stop("some threads wait for others that do not come");
        }
    next:;
    }
}

/* What every lane gave, as bytes; the exchange of a warp. */
template <class T> inline T exchange(unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) <= 8, "lanes exchange 8 bytes at most");
    unsigned first = current & ~31u, me = current;
    std::memcpy(&fibers[me].given, &value, sizeof value);
    give_way(AT_WARP_BARRIER, mask);
    T result = value;
    if (source < 32) {
        if (!(mask >> source & 1)) stop("an exchange reads a lane outside its mask");
        std::memcpy(&result, &fibers[first + source].given, sizeof result);
    }
    give_way(AT_WARP_BARRIER, mask);
    return result;
}

/* Asynchronous copies of a thread happen when it waits for them: as late as they may. */
inline void copy_async(void *to, const void *from, size_t n) {
    fibers[current].copies.push_back({to, from, n, fibers[current].n_groups});
}

inline void commit_copies() { ++fibers[current].n_groups; }

inline void wait_copies(unsigned n_pending) {
    Fiber &fiber = fibers[current];
    auto copy = fiber.copies.begin();
    for (; copy != fiber.copies.end() && copy->group + n_pending < fiber.n_groups; ++copy) {
        if (copy->from != nullptr)
            std::memcpy(copy->to, copy->from, copy->n);
        else
            std::memset(copy->to, 0, copy->n);
        fiber.has_hidden_copies = true;
    }
    fiber.copies.erase(fiber.copies.begin(), copy);
}

/* mma.m16n8k32 of int8 (PTX ISA, "Matrix Fragments for mma.m16n8k32"): byte i of a word is k = 4 (lane % 4) + i, and
 * 16 more in a[2], a[3], b[1]. */
inline void mma_m16n8k32_s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    unsigned first = current & ~31u, lane = current & 31;
    std::memcpy(fibers[current].fragment, a, sizeof a);
    std::memcpy(fibers[current].fragment + 4, b, sizeof b);
    give_way(AT_WARP_BARRIER, ~0u);
    for (unsigned i = 0; i < 4; ++i) {
        unsigned group = lane / 4, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 32; ++k) {
            const Fiber &left = fibers[first + 4 * group + k % 16 / 4],
                        &right = fibers[first + 4 * column + k % 16 / 4];
            uint32_t x = left.fragment[k / 16 * 2 + i / 2], y = right.fragment[4 + k / 16];
            c[i] += (int8_t)(x >> (k % 4 * 8)) * (int8_t)(y >> (k % 4 * 8));
        }
    }
    give_way(AT_WARP_BARRIER, ~0u);
}

/* ---- wgmma ---- */

/* Descriptors have 18 bits of an address: the others are those of the last one that was asked for. */
inline const char *last_shared;

inline uint32_t shared_address(const void *p) {
    last_shared = (const char *)p;
    return (uint32_t)(uintptr_t)p & 0x3ffffu;
}

inline const int8_t *of_shared_address(uint32_t address) {
    int32_t difference = (int32_t)((address - (uint32_t)(uintptr_t)last_shared) << 14) >> 14;
    return (const int8_t *)last_shared + difference;
}

inline void show_copies() { fibers[current].has_hidden_copies = false; }

inline void fence_products() { fibers[current].is_fenced = true; }

inline void commit_products() { ++fibers[current].n_product_groups; }

/* 16 bytes, k 16 * k16 .., of a column of the right operand, which lies in core matrices of 8 columns by 16 bytes. */
inline const int8_t *wgmma_column(uint64_t descriptor, unsigned column, unsigned k16) {
    uint32_t start = (uint32_t)(descriptor & 0x3fff) << 4, along_k = (uint32_t)(descriptor >> 16 & 0x3fff) << 4;
    uint32_t along_columns = (uint32_t)(descriptor >> 32 & 0x3fff) << 4;
    if (descriptor >> 62 != 0) stop("swizzled operands are not emulated");
    return of_shared_address(start) + k16 * along_k + column / 8 * along_columns + column % 8 * 16;
}

/* wgmma.mma_async.m64nNk32 of int8 (PTX ISA, "Register Fragments and Shared Memory Matrix Layouts"): the left operand
 * is in registers, a warp's 16 rows as in mma.m16n8k32. The right one is read now, which is as early as it may be, the
 * sums are changed by the wait, which is as late; until then the right one must not change. */
template <size_t N> inline void wgmma_m64k32_s8(int (&c)[N][4], const uint32_t (&a)[4], uint64_t descriptor) {
    unsigned first = current & ~31u, lane = current & 31;
    Fiber &fiber = fibers[current];
    if (!fiber.is_fenced) stop("a product whose registers are not fenced");
    std::memcpy(fiber.fragment, a, sizeof a);
    give_way(AT_WARPGROUP_BARRIER);
    for (unsigned i = 0; i < n_threads; ++i)
        if (fibers[i].has_hidden_copies) stop("a product that may not see what was copied");
    Product product;
    product.sums = &c[0][0];
    product.group = fiber.n_product_groups;
    for (unsigned i = 0; i < 4 * N; ++i) {
        unsigned row = lane / 4, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        int sum = 0;
        for (unsigned k16 = 0; k16 < 2; ++k16) {
            const int8_t *right = wgmma_column(descriptor, column, k16);
            for (unsigned k = 0; k < 16; ++k) {
                uint32_t left = fibers[first + 4 * row + k / 4].fragment[k16 * 2 + i % 4 / 2];
                sum += (int8_t)(left >> (k % 4 * 8)) * right[k];
            }
        }
        product.added.push_back(sum);
    }
    for (unsigned k16 = 0; k16 < 2; ++k16) {
        product.watched[k16] = wgmma_column(descriptor, current % (8 * N), k16);
        std::memcpy(product.seen + 16 * k16, product.watched[k16], 16);
    }
    fiber.products.push_back(product);
    give_way(AT_WARPGROUP_BARRIER);
}

inline void wait_products(unsigned n_pending) {
    Fiber &fiber = fibers[current];
    auto product = fiber.products.begin();
    for (; product != fiber.products.end() && product->group + n_pending < fiber.n_product_groups; ++product) {
        for (unsigned k16 = 0; k16 < 2; ++k16)
            if (std::memcmp(product->watched[k16], product->seen + 16 * k16, 16) != 0)
                stop("shared memory changed while a product read it");
        for (size_t i = 0; i < product->added.size(); ++i) product->sums[i] += product->added[i];
    }
    fiber.products.erase(fiber.products.begin(), product);
    fiber.is_fenced = false;
}

} // namespace hyb_emulation

#endif /* HYB_EMULATION_FIBERS_H */
