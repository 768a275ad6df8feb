// Sums, and channels put together and taken apart, in packs of V numbers.

typedef Pack<number, V> pack;

extern "C" __global__ void add(const number* a, const number* b, number* y, int size)
{
    int i = thread();
    if (i >= size) return;
    pack z = ((const pack*)a)[i], other = ((const pack*)b)[i];
    for (int v = 0; v < V; v++) z.at[v] = store(load(z.at[v]) + load(other.at[v]));
    ((pack*)y)[i] = z;
}

// y (rows, A + B) is a (rows, A) beside b (rows, B), counted in packs; `join` writes y, else a and b
extern "C" __global__ void concatenate(number* a, number* b, number* y, int A, int B, int join,
                                       int size)
{
    int i = thread();
    if (i >= size) return;
    int row = i / (A + B), column = i % (A + B);
    pack* part = column < A ? (pack*)a + (size_t)row * A + column : (pack*)b + (size_t)row * B + column - A;
    if (join) ((pack*)y)[i] = *part;
    else *part = ((pack*)y)[i];
}
