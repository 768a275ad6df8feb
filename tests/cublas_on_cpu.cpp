// cuBLAS's functions that product.py calls, on a CPU: products of matrices in column-major order, summed in float64.
#include "cuda_on_cpu.h"

static double value(const void* matrix, long long i, int type, int compute)
{
    if (type == 1) return ((const double*)matrix)[i];
    if (type == 2) return of_half_bits(((const unsigned short*)matrix)[i]);
    if (type == 14) return __uint_as_float((unsigned)((const unsigned short*)matrix)[i] << 16);
    float x = ((const float*)matrix)[i];
    return compute == 77 ? __uint_as_float(__float_as_uint(x) + 0x1000 & 0xffffe000) : x;      // TF32: ten bits
}

static void assign(void* matrix, long long i, int type, double x)
{
    if (type == 1) ((double*)matrix)[i] = x;
    else if (type == 2) ((unsigned short*)matrix)[i] = half_bits(x);
    else if (type == 14) ((unsigned short*)matrix)[i] = bfloat_bits(x);
    else ((float*)matrix)[i] = x;
}

extern "C" int cublasSetStream_v2(void*, void*) { return 0; }
extern "C" int cublasSetWorkspace_v2(void*, void*, size_t) { return 0; }

extern "C" int cublasGemmStridedBatchedEx(void*, int transa, int transb, int m, int n, int k, const void* alpha,
                                          const void* A, int a, int lda, long long next_a, const void* B, int b, int ldb,
                                          long long next_b, const void* beta, void* C, int c, int ldc, long long next_c,
                                          int batch, int compute, int)
{
    bool narrow = a == 2 || a == 14, known = a == 1 ? c == 1 && compute == 70
        : a == 0 ? c == 0 && (compute == 68 || compute == 77) : narrow && (c == 0 || c == a) && compute == 68;
    if (a != b || !known) return 15;                                    // not in cuBLAS's table
    if (lda < (transa ? k : m) || ldb < (transb ? n : k) || ldc < m) return 7;
    double one = value(alpha, 0, compute == 70, 0), factor = value(beta, 0, compute == 70, 0);
    for (int s = 0; s < batch; s++) for (int j = 0; j < n; j++) for (int i = 0; i < m; i++) {
        double sum = 0;
        for (int l = 0; l < k; l++)
            sum += value(A, s * next_a + (transa ? l + (long long)i * lda : i + (long long)l * lda), a, compute)
                 * value(B, s * next_b + (transb ? j + (long long)l * ldb : l + (long long)j * ldb), b, compute);
        long long at = s * next_c + i + (long long)j * ldc;
        assign(C, at, c, one * sum + (factor ? factor * value(C, at, c, 0) : 0));
    }
    return 0;
}

extern "C" int cublasGemmEx(void* handle, int transa, int transb, int m, int n, int k, const void* alpha, const void* A,
                            int a, int lda, const void* B, int b, int ldb, const void* beta, void* C, int c, int ldc,
                            int compute, int algorithm)
{
    return cublasGemmStridedBatchedEx(handle, transa, transb, m, n, k, alpha, A, a, lda, 0, B, b, ldb, 0, beta, C, c,
                                      ldc, 0, 1, compute, algorithm);
}
