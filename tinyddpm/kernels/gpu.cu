// The GPU kernels: what surrounds cuBLAS's matrix products.
//
// Compiled with -DREAL=float or double, the type of all arrays, and -DNARROW=0, 1 or 2: whether the operands of matrix
// products are of that type too, or bfloat16 or float16. No header is needed; the conversions are written out.
// Sums are added in a fixed order, so that a run can be repeated to the bit.

typedef REAL real;
#if NARROW
typedef unsigned short operand;
#else
typedef real operand;
#endif

#if NARROW == 2 && defined(__CUDACC__)
__device__ operand half_bits(float x) { operand y; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x)); return y; }
__device__ float of_half_bits(operand x) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x)); return y; }
#endif

__device__ operand narrow(real x)
{
#if NARROW == 1
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return (bits >> 16) | 64;             // NaN stays NaN
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;                          // to nearest, ties to even
#elif NARROW == 2
    return half_bits(x);
#else
    return x;
#endif
}

__device__ real widen(operand x)
{
#if NARROW == 1
    return __uint_as_float((unsigned)x << 16);
#elif NARROW == 2
    return of_half_bits(x);
#else
    return x;
#endif
}

template <typename T, int V> struct alignas(V * sizeof(T)) Pack { T at[V]; };      // V numbers in one access of memory

__device__ int thread() { return blockIdx.x * blockDim.x + threadIdx.x; }


// ---- matrix products: their operands, and what they are added to ----

extern "C" __global__ void operands(const real* x, operand* y, int size)
{
    int i = thread();
    if (i < size) y[i] = narrow(x[i]);
}

// y (rows, K) = b + other, other (rows / pixels, K) or absent: what a product is then added to
extern "C" __global__ void start(real* y, const real* b, const real* other, int pixels, int K, int size)
{
    int i = thread();
    if (i >= size) return;
    int k = i % K;
    y[i] = b[k] + (other ? other[i / (pixels * K) * K + k] : 0);
}

// rows (N, H2, W2, kh, kw, C); a thread for each pixel and pack: for each pixel (i, j) of the result and each position (p, q) of the kernel, the source
// pixel ((mul i + sign p + top) / div, (mul j + sign q + left) / div), or zeros where there is none.
template <int V>
__device__ void gather(const operand* source, operand* rows, int H, int W, int C, int H2, int W2, int kh, int kw,
                       int mul, int sign, int div, int top, int left, int size)
{
    typedef Pack<operand, V> pack;
    int i = thread();
    if (i >= size) return;
    int packs = C / V, pixel = i / packs, c = i % packs, row = pixel / W2, n = row / H2;            // row: of all images
    int top_y = mul * (row % H2) + top, left_x = mul * (pixel % W2) + left;
    pack* target = (pack*)rows + pixel * kh * kw * packs + c;
    for (int p = 0; p < kh; p++)
        for (int q = 0; q < kw; q++, target += packs) {
            int y = top_y + sign * p, x = left_x + sign * q;
            bool meets = y >= 0 && x >= 0;
            if (div > 1) {
                meets = meets && y % div == 0 && x % div == 0;
                y /= div, x /= div;
            }
            pack value = {};
            if (meets && y < H && x < W) value = ((const pack*)source)[((n * H + y) * W + x) * packs + c];
            *target = value;
        }
}

#define GATHER(name, V) extern "C" __global__ void name(const operand* source, operand* rows, int H, int W, int C, int H2, int W2, \
    int kh, int kw, int mul, int sign, int div, int top, int left, int size)                                                        \
    { gather<V>(source, rows, H, W, C, H2, W2, kh, kw, mul, sign, div, top, left, size); }
GATHER(gather_one, 1)
GATHER(gather_pack, 16 / sizeof(operand))

// sums (S, K): over x (S, rows, K); blocks (32, 8), one for 32 columns of one s
extern "C" __global__ void column_sums(const real* x, real* sums, int rows, int K)
{
    __shared__ real shared[8][32];
    int k = blockIdx.x * 32 + threadIdx.x;
    real sum = 0;
    if (k < K)
        for (int r = threadIdx.y; r < rows; r += 8) sum += x[((size_t)blockIdx.y * rows + r) * K + k];
    shared[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && k < K) {
        for (int lane = 1; lane < 8; lane++) sum += shared[lane][threadIdx.x];
        sums[blockIdx.y * K + k] = sum;
    }
}


// ---- group normalization, alone or with SiLU: a block has whole groups of one sample; threads (channel, lane) ----

// The sum over the block's lanes, of a number for each channel and lane
__device__ real lane_sum(real value, real* shared)
{
    shared[threadIdx.y * blockDim.x + threadIdx.x] = value;
    __syncthreads();
    if (threadIdx.y == 0) {
        for (int lane = 1; lane < blockDim.y; lane++) value += shared[lane * blockDim.x + threadIdx.x];
        shared[threadIdx.x] = value;
    }
    __syncthreads();
    value = shared[threadIdx.x];
    __syncthreads();
    return value;
}

// The sum over the `width` channels of the thread's group, of a number for each channel
__device__ real group_sum(real value, int width, real* shared)
{
    if (threadIdx.y == 0) shared[threadIdx.x] = value;
    __syncthreads();
    int first = threadIdx.x / width * width;
    real sum = 0;
    for (int c = first; c < first + width; c++) sum += shared[c];
    __syncthreads();
    return sum;
}

__device__ real sigmoid(real x) { return 1 / (1 + exp(-x)); }

extern "C" __global__ void group_norm(const real* x, const real* gamma, const real* beta, real* y, real* mean, real* rstd,
                                      int L, int C, int width, real eps, int silu)
{
    __shared__ real shared[1024];
    int c = blockIdx.x * blockDim.x + threadIdx.x, groups = C / width;
    bool there = c < C;
    size_t first = (size_t)blockIdx.y * L * C + c;
    real sum = 0;
    if (there) for (int i = threadIdx.y; i < L; i += blockDim.y) sum += x[first + (size_t)i * C];
    real m = group_sum(lane_sum(sum, shared), width, shared) / ((real)L * width);
    sum = 0;
    if (there) for (int i = threadIdx.y; i < L; i += blockDim.y) {
        real centred = x[first + (size_t)i * C] - m;
        sum += centred * centred;
    }
    real r = 1 / sqrt(group_sum(lane_sum(sum, shared), width, shared) / ((real)L * width) + eps);
    if (!there) return;
    if (threadIdx.y == 0 && c % width == 0) {
        mean[blockIdx.y * groups + c / width] = m;
        rstd[blockIdx.y * groups + c / width] = r;
    }
    for (int i = threadIdx.y; i < L; i += blockDim.y) {
        real z = (x[first + (size_t)i * C] - m) * r * gamma[c] + beta[c];
        y[first + (size_t)i * C] = silu ? z * sigmoid(z) : z;
    }
}

// The gradient between the norm and SiLU
__device__ real through_silu(real dy, real normal, real gamma, real beta, int silu)
{
    if (!silu) return dy;
    real z = normal * gamma + beta, s = sigmoid(z);
    return dy * s * (1 + z * (1 - s));
}

// dgamma, dbeta (N, C): the sums over each sample alone
extern "C" __global__ void group_norm_backward(const real* dy, const real* x, const real* gamma, const real* beta, const real* mean,
                                               const real* rstd, real* dx, real* dgamma, real* dbeta, int L, int C, int width, int silu)
{
    __shared__ real shared[1024];
    int c = blockIdx.x * blockDim.x + threadIdx.x, group = blockIdx.y * (C / width) + c / width;
    bool there = c < C;
    size_t first = (size_t)blockIdx.y * L * C + c;
    real m = 0, r = 0, scale = 0, shift = 0, sum = 0, sum_normal = 0;
    if (there) {
        m = mean[group], r = rstd[group], scale = gamma[c], shift = beta[c];
        for (int i = threadIdx.y; i < L; i += blockDim.y) {
            real normal = (x[first + (size_t)i * C] - m) * r, dz = through_silu(dy[first + (size_t)i * C], normal, scale, shift, silu);
            sum += dz;
            sum_normal += dz * normal;
        }
    }
    sum = lane_sum(sum, shared);
    sum_normal = lane_sum(sum_normal, shared);
    real mean_dn = group_sum(sum * scale, width, shared) / ((real)L * width);
    real mean_dn_n = group_sum(sum_normal * scale, width, shared) / ((real)L * width);
    if (!there) return;
    if (threadIdx.y == 0) {
        dbeta[blockIdx.y * C + c] = sum;
        dgamma[blockIdx.y * C + c] = sum_normal;
    }
    for (int i = threadIdx.y; i < L; i += blockDim.y) {
        real normal = (x[first + (size_t)i * C] - m) * r, dz = through_silu(dy[first + (size_t)i * C], normal, scale, shift, silu);
        dx[first + (size_t)i * C] = r * (dz * scale - mean_dn - normal * mean_dn_n);
    }
}


// ---- softmax: a warp has one row ----

template <typename F> __device__ real row_reduce(real value, real* shared, F combine)
{
    shared[threadIdx.x] = value;
    for (int half = 16; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] = combine(shared[threadIdx.x], shared[threadIdx.x + half]);
    }
    __syncthreads();
    value = shared[0];
    __syncthreads();
    return value;
}

struct Larger { __device__ real operator()(real a, real b) const { return a > b ? a : b; } };
struct Sum { __device__ real operator()(real a, real b) const { return a + b; } };

// p = softmax(scale logits), logits and p (rows, L)
extern "C" __global__ void softmax(const real* logits, operand* p, int L, real scale)
{
    __shared__ real shared[32];
    logits += (size_t)blockIdx.x * L;
    real largest = logits[0] * scale, sum = 0;
    for (int j = threadIdx.x; j < L; j += 32) largest = Larger()(largest, logits[j] * scale);
    largest = row_reduce(largest, shared, Larger());
    for (int j = threadIdx.x; j < L; j += 32) sum += exp(logits[j] * scale - largest);
    sum = row_reduce(sum, shared, Sum());
    for (int j = threadIdx.x; j < L; j += 32) p[(size_t)blockIdx.x * L + j] = narrow(exp(logits[j] * scale - largest) / sum);
}

// dlogits = p (dp - sum(p dp)) scale
extern "C" __global__ void softmax_backward(const real* dp, const operand* p, operand* dlogits, int L, real scale)
{
    __shared__ real shared[32];
    size_t first = (size_t)blockIdx.x * L;
    real sum = 0;
    for (int j = threadIdx.x; j < L; j += 32) sum += widen(p[first + j]) * dp[first + j];
    sum = row_reduce(sum, shared, Sum());
    for (int j = threadIdx.x; j < L; j += 32) dlogits[first + j] = narrow(widen(p[first + j]) * (dp[first + j] - sum) * scale);
}


// ---- resolution, the loss, and the update ----

// x (N, H, W, C) -> y (N, 2H, 2W, C); H: of all images together
extern "C" __global__ void upsample(const real* x, real* y, int W, int C, int size)
{
    int i = thread();
    if (i >= size) return;
    int c = i % C, column = i / C % (2 * W), row = i / C / (2 * W);
    y[i] = x[(row / 2 * W + column / 2) * C + c];
}

// dy (N, 2H, 2W, C) -> dx (N, H, W, C), W and size of dx
extern "C" __global__ void upsample_backward(const real* dy, real* dx, int W, int C, int size)
{
    int i = thread();
    if (i >= size) return;
    int c = i % C, column = i / C % W, row = i / C / W;
    const real* corner = dy + ((size_t)2 * row * 2 * W + 2 * column) * C + c;
    dx[i] = corner[0] + corner[C] + corner[2 * W * C] + corner[2 * W * C + C];
}

// difference = prediction - target, and for each block of 256 numbers the sum of its squares
extern "C" __global__ void squared_error(const real* prediction, const real* target, real* difference, real* sums, int size)
{
    __shared__ real shared[256];
    int i = thread();
    real d = i < size ? prediction[i] - target[i] : 0;
    if (i < size) difference[i] = d;
    shared[threadIdx.x] = d * d;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = shared[0];
}

// Adam and the moving average; grad_scale is read on the device, and one that is not finite leaves all as it is
extern "C" __global__ void adam_ema(real* values, const real* grads, real* m, real* v, real* ema, const real* grad_scale, real rate,
                                    real correction, real one_minus_beta1, real one_minus_beta2, real eps, real one_minus_decay, int size)
{
    int i = thread();
    if (i >= size || !(fabs(*grad_scale) <= 1e38f)) return;
    real g = grads[i] * *grad_scale;
    real mi = m[i] + one_minus_beta1 * (g - m[i]), vi = v[i] + one_minus_beta2 * (g * g - v[i]);
    real value = values[i] - rate * mi / (sqrt(vi) * correction + eps);
    m[i] = mi, v[i] = vi, values[i] = value;
    ema[i] += one_minus_decay * (value - ema[i]);
}
