// The mean squared error.

// difference = prediction - target, and for each block of 256 numbers the sum of its squares
extern "C" __global__ void squared_error(const real* prediction, const real* target, real* difference, real* sums,
                                         int size)
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
