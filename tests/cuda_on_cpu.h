// Enough of CUDA to compile the .cu files as C++ and run them on a CPU, block after block. The threads of a block that
// share memory are coroutines, which take turns at __syncthreads and at the instructions of a whole warp.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <csetjmp>
#include <cstring>
#include <ucontext.h>

using std::exp; using std::fabs; using std::sqrt;
#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(...)
#define INLINE inline
#define min(a, b) ((a) < (b) ? (a) : (b))

static struct { int x, y; } threadIdx, blockIdx, blockDim, gridDim;

#define __expf(x) expf(x)
static inline float __fdividef(float x, float y) { return x / y; }
static inline unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
static inline float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }

static inline unsigned short bfloat_bits(float x)               // to nearest, ties to even
{
    unsigned bits = __float_as_uint(x);
    return x != x ? 0x7fff : bits + 0x7fff + (bits >> 16 & 1) >> 16;
}

static inline unsigned short half_bits(float x)
{
    unsigned short sign = __float_as_uint(x) >> 31 << 15;
    x = fabs(x);
    if (x != x) return sign | 0x7e00;
    if (x >= 65520) return sign | 0x7c00;
    if (x < 6.103515625e-5f) return sign | (unsigned short)nearbyintf(x * 16777216);         // subnormal: units of 2^-24
    unsigned bits = __float_as_uint(x);
    return sign | ((bits - (112u << 23) + 0xfff + ((bits >> 13) & 1)) >> 13);
}

static inline float of_half_bits(unsigned short h)
{
    float sign = h >> 15 ? -1.0f : 1.0f;
    int exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexpf(1024 + fraction, exponent - 25) : ldexpf(fraction, -24));
}

alignas(1024) static char dynamic[232448];       // shared memory
static const int STACK = 1 << 15;
static char stacks[1024][STACK];
static jmp_buf scheduler, coroutine[1024];
static bool started[1024], done[1024];
static int current, apart;                  // apart: 1 where the threads are coroutines
static void (*body)(void**);
static void** arguments;

static void pause() { if (!_setjmp(coroutine[current])) _longjmp(scheduler, 1); }

static void __syncthreads()
{
    if (!apart) { fprintf(stderr, "__syncthreads in a kernel without shared memory\n"); abort(); }
    pause();
}

static void live() { for (;;) { body(arguments); done[current] = true; pause(); } }

static void resume(int i)
{
    current = i, threadIdx.x = i % blockDim.x, threadIdx.y = i / blockDim.x;
    if (!apart) { body(arguments); done[i] = true; return; }
    if (_setjmp(scheduler)) return;
    if (started[i]) _longjmp(coroutine[i], 1);
    ucontext_t first;
    getcontext(&first);
    first.uc_stack.ss_sp = stacks[i], first.uc_stack.ss_size = STACK, first.uc_link = 0;
    makecontext(&first, live, 0);
    started[i] = true;
    setcontext(&first);
}

static void launch(void (*kernel)(void**), void** given, int gx, int gy, int bx, int by, int shared,
                   int bytes)
{
    body = kernel, arguments = given, apart = shared, blockDim.x = bx, blockDim.y = by, gridDim.x = gx, gridDim.y = gy;
    for (blockIdx.y = 0; blockIdx.y < gy; blockIdx.y++) for (blockIdx.x = 0; blockIdx.x < gx; blockIdx.x++) {
        for (int i = 0; i < bx * by; i++) done[i] = false;
        memset(dynamic, 0xff, sizeof dynamic);
        for (bool left = true; left;) {
            left = false;
            for (int i = 0; i < bx * by; i++) if (!done[i]) { resume(i); left |= !done[i]; }
        }
    }
    for (int i = bytes; i < sizeof dynamic; i++)
        if (dynamic[i] != (char)0xff) { fprintf(stderr, "more than the %d bytes of shared memory were used\n", bytes); abort(); }
}

// ---- the instructions of instructions.cu ----

static inline unsigned shared_address(const void* p) { return (const char*)p - dynamic; }

// Copies are only made when a thread waits for them, as late as a GPU might make them.
struct Copy { void* to; const void* from; bool there; };
static Copy copies[1024][16][64];           // of a thread: its groups, in a ring
static int in_group[1024][16], newest[1024], oldest[1024];

static inline void copy_async(void* to, const void* from, bool there)
{
    if (((size_t)to | (size_t)from) % 16) { fprintf(stderr, "copy_async: not aligned\n"); abort(); }
    int group = newest[current] % 16;
    if (in_group[current][group] == 64) { fprintf(stderr, "copy_async: too many in a group\n"); abort(); }
    copies[current][group][in_group[current][group]++] = {to, from, there};
}

static inline void commit_copies() { in_group[current][++newest[current] % 16] = 0; }

template <int N> static inline void wait_for_copies()
{
    for (; oldest[current] < newest[current] - N; oldest[current]++)
        for (int i = 0; i < in_group[current][oldest[current] % 16]; i++) {
            Copy c = copies[current][oldest[current] % 16][i];
            if (c.there) memcpy(c.to, c.from, 16); else memset(c.to, 0, 16);
        }
}

// What each thread of a warp gives to an instruction of the whole warp; in turn one and the other
union Given { const void* row; unsigned registers[6]; };
static Given given[2][1024];
static int turn[1024];

static inline Given* exchange(Given mine)           // of the thread's warp
{
    Given* all = given[turn[current] ^= 1];
    all[current] = mine;
    pause();
    return all + current / 32 * 32;
}

static inline Given* exchange(const unsigned* a, const unsigned* b)
{
    Given mine;
    memcpy(mine.registers, a, 4 * sizeof *a), memcpy(mine.registers + 4, b, 2 * sizeof *b);
    return exchange(mine);
}

static inline void load_matrices(unsigned* r, const void* row)
{
    Given mine; mine.row = row;
    Given* of = exchange(mine);
    int lane = current % 32;
    for (int i = 0; i < 4; i++) r[i] = ((const unsigned*)of[8 * i + lane / 4].row)[lane % 4];
}

static inline void load_transposed(unsigned* r, const void* row)
{
    Given mine; mine.row = row;
    Given* of = exchange(mine);
    int lane = current % 32;
    for (int i = 0; i < 4; i++) {
        unsigned both[2];
        for (int e = 0; e < 2; e++) both[e] = ((const unsigned short*)of[8 * i + lane % 4 * 2 + e].row)[lane / 4];
        r[i] = both[0] | both[1] << 16;
    }
}

#if NARROW == 1 || NARROW == 2
static float widened(unsigned short bits)
{
#if NARROW == 1
    return __uint_as_float((unsigned)bits << 16);
#else
    return of_half_bits(bits);
#endif
}

static inline void multiply_add(float* c, const unsigned* a, const unsigned* b)
{
    Given* of = exchange(a, b);
    int lane = current % 32;
    for (int i = 0; i < 4; i++)                     // rows lane / 4 and 8 more, columns lane % 4 * 2 and the next
        for (int k = 0; k < 16; k++) {
            int row = i / 2, column = lane % 4 * 2 + i % 2;
            unsigned left = of[lane / 4 * 4 + k % 8 / 2].registers[row + k / 8 * 2];
            unsigned right = of[column * 4 + k % 8 / 2].registers[4 + k / 8];
            c[i] += widened(left >> k % 2 * 16) * widened(right >> k % 2 * 16);
        }
}

#if WGMMA
// Number (i, k) of a matrix in shared memory, as its descriptor says
template <bool ACROSS> static float described(unsigned long long d, int i, int k)
{
    int start = (d & 0x3fff) << 4, leading = (d >> 16 & 0x3fff) << 4, stride = (d >> 32 & 0x3fff) << 4;
    int at = start + (ACROSS ? i / 64 * leading + k / 8 * stride + k % 8 * 128 + i % 64 * 2
                             : i / 8 * stride + i % 8 * 128 + k * 2);
    if (d >> 62 != 1) { fprintf(stderr, "a descriptor without swizzle\n"); abort(); }
    return widened(*(unsigned short*)(dynamic + (at ^ (at >> 7 & 7) << 4)));
}

template <bool ACROSS, int N> static inline void group_multiply_add(float (&c)[N][4], const unsigned* a,
                                                                   unsigned long long b)
{
    Given* of = exchange(a, a);                     // b is in shared memory
    int lane = current % 32;
    for (int k = 0; k < 16; k++)
        for (int j = 0; j < N; j++)
            for (int i = 0; i < 4; i++) {
                unsigned left = of[lane / 4 * 4 + k % 8 / 2].registers[i / 2 + k / 8 * 2];
                c[j][i] += widened(left >> k % 2 * 16) * described<ACROSS>(b, 8 * j + lane % 4 * 2 + i % 2, k);
            }
}
#endif
#elif NARROW == 3
static inline unsigned to_tf32(float x) { return __float_as_uint(x) + 0x1000 & 0xffffe000; }

static inline void multiply_add(float* c, const unsigned* a, const unsigned* b)
{
    Given* of = exchange(a, b);
    int lane = current % 32;
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 8; k++) {
            unsigned left = of[lane / 4 * 4 + k % 4].registers[i / 2 + k / 4 * 2];
            unsigned right = of[(lane % 4 * 2 + i % 2) * 4 + k % 4].registers[4 + k / 4];
            c[i] += __uint_as_float(left) * __uint_as_float(right);
        }
}
#endif

static inline void begin_products() {}
static inline void fence_products() {}
static inline void commit_products() {}
template <int N> static inline void wait_for_products() {}
