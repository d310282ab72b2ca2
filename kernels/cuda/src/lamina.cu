// All kernels, as one unit: one PTX.
#include "combine.cu"
#include "field.cu"
#include "logup.cu"
#include "msm.cu"
#include "ntt.cu"
#include "scan.cu"
