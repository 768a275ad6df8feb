// Softmax: one warp for each row.

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
extern "C" __global__ void softmax(const real* logits, number* p, int L, real scale)
{
    __shared__ real shared[32];
    logits += (size_t)blockIdx.x * L;
    real largest = logits[0] * scale, sum = 0;
    for (int j = threadIdx.x; j < L; j += 32) largest = Larger()(largest, logits[j] * scale);
    largest = row_reduce(largest, shared, Larger());
    for (int j = threadIdx.x; j < L; j += 32) sum += exp(logits[j] * scale - largest);
    sum = row_reduce(sum, shared, Sum());
    p += (size_t)blockIdx.x * L;
    for (int j = threadIdx.x; j < L; j += 32) p[j] = store(exp(logits[j] * scale - largest) / sum);
}

// dlogits = p (dp - sum(p dp)) scale
extern "C" __global__ void softmax_backward(const real* dp, const number* p, number* dlogits, int L, real scale)
{
    __shared__ real shared[32];
    size_t first = (size_t)blockIdx.x * L;
    p += first, dp += first, dlogits += first;
    real sum = 0;
    for (int j = threadIdx.x; j < L; j += 32) sum += load(p[j]) * dp[j];
    sum = row_reduce(sum, shared, Sum());
    for (int j = threadIdx.x; j < L; j += 32) dlogits[j] = store(load(p[j]) * (dp[j] - sum) * scale);
}
