/* A CUDA driver that runs nothing: it prints what a launch was given, one line per call.
 *
 * cuda-python loads libcuda.so.1 and asks it for each function through cuGetProcAddress, so with
 * this in the library path the genuine package runs on a machine without a GPU, and a test sees
 * whether kernel arguments reach the driver as cuLaunchKernel reads them: an array of pointers to
 * the values (CUDA Driver API, "Execution Control").
 *
 * The one kernel has the parameters (u64, u32, u32, u64). The second launch gives
 * CUDA_ERROR_INVALID_VALUE (1). Contexts, modules and functions are small numbers.
 */

#include <stdint.h>
#include <stdio.h>
#include <string.h>

static int launches = 0;

int cuInit(unsigned int flags) {
    (void)flags;
    return 0;
}

int cuDriverGetVersion(int* version) {
    *version = 12090;
    return 0;
}

int cuCtxGetCurrent(void** context) {
    *context = (void*)7;
    return 0;
}

int cuModuleLoadData(void** module, const void* image) {
    printf("load %s\n", (const char*)image);
    *module = (void*)11;
    return 0;
}

int cuModuleGetFunction(void** function, void* module, const char* name) {
    printf("function %d %s\n", (int)(intptr_t)module, name);
    *function = (void*)13;
    return 0;
}

int cuLaunchKernel(void* function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z,
                   unsigned int block_x, unsigned int block_y, unsigned int block_z,
                   unsigned int shared_bytes, void* stream, void** parameters, void** extra) {
    printf("launch %d grid %u %u %u block %u %u %u shared %u stream %d extra %d\n",
           (int)(intptr_t)function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes,
           (int)(intptr_t)stream, extra != NULL);
    printf("arguments %llx %d %d %llx\n", *(unsigned long long*)parameters[0], *(int*)parameters[1],
           *(int*)parameters[2], *(unsigned long long*)parameters[3]);
    fflush(stdout);
    return launches++ ? 1 : 0;
}

int cuGetProcAddress_v2(const char* name, void** function, int version, uint64_t flags,
                        int* status) {
    static const struct {
        const char* name;
        void* function;
    } known[] = {
        {"cuInit", (void*)cuInit},
        {"cuDriverGetVersion", (void*)cuDriverGetVersion},
        {"cuCtxGetCurrent", (void*)cuCtxGetCurrent},
        {"cuModuleLoadData", (void*)cuModuleLoadData},
        {"cuModuleGetFunction", (void*)cuModuleGetFunction},
        {"cuLaunchKernel", (void*)cuLaunchKernel},
        {"cuGetProcAddress", (void*)cuGetProcAddress_v2},
    };
    (void)version, (void)flags;
    *function = NULL;
    for (size_t i = 0; i < sizeof known / sizeof *known; ++i) {
        if (strcmp(name, known[i].name) == 0) {
            *function = known[i].function;
        }
    }
    if (status != NULL) {
        *status = *function == NULL; /* CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND is 1 */
    }
    return *function == NULL ? 500 : 0; /* CUDA_ERROR_NOT_FOUND */
}

int cuGetProcAddress(const char* name, void** function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
