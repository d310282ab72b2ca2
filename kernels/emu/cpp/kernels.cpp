// The CUDA sources, as host C++.
#include "lamina.cu"
