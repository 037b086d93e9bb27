# The CUDA device is a library of its own that the program loads when asked for, built up to twice from src/cuda:
#   librankine_cuda.so        by nvcc, for GPUs; where nvcc is found
#   librankine_cuda_host.so   by the C++ compiler: kernels run on the host; where CUDA's headers are found, for tests
option(RANKINE_CUDA_HOST "build the CUDA device to run on the host, for tests, where CUDA's headers are" ON)
set(RANKINE_CUDA AUTO CACHE STRING "build the CUDA device for GPUs: ON, OFF, or AUTO: where nvcc is")
set_property(CACHE RANKINE_CUDA PROPERTY STRINGS AUTO ON OFF)
set(RANKINE_CUDA_ARCHITECTURES "80;90;100" CACHE STRING "GPUs to build for; the last one as PTX too")

file(GLOB RANKINE_CUDA_C CONFIGURE_DEPENDS src/cuda/*.c)
file(GLOB RANKINE_CUDA_KERNELS CONFIGURE_DEPENDS src/cuda/*.cu)
file(GLOB RANKINE_CUDA_EMU CONFIGURE_DEPENDS src/cuda/host/*.cpp)
list(GET RANKINE_CUDA_ARCHITECTURES -1 RANKINE_CUDA_LAST)

set(RANKINE_CUDA_HOST_BUILT FALSE)
set(RANKINE_CUDA_BUILT FALSE)
if(RANKINE_CUDA_HOST OR NOT RANKINE_CUDA STREQUAL "OFF")
    find_package(CUDAToolkit QUIET)
endif()
# NCCL is a header alone: what it declares is a stand-in's in the host-run library, and looked for by the other when
# GPUs meet. Without the header ranks meet over the host's memory.
if(CUDAToolkit_INCLUDE_DIRS)
    find_path(RANKINE_NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ENV NCCL_HOME PATH_SUFFIXES include)
endif()
set(RANKINE_NCCL_DIR "${CUDAToolkit_INCLUDE_DIRS}")
if(RANKINE_NCCL_INCLUDE)
    set(RANKINE_NCCL_DIR "${RANKINE_NCCL_INCLUDE}")
endif()
if(NOT RANKINE_NCCL_INCLUDE)
    list(FILTER RANKINE_CUDA_C EXCLUDE REGEX "/nccl(_load)?[.]c$")
    list(FILTER RANKINE_CUDA_EMU EXCLUDE REGEX "/nccl[.]cpp$")
endif()
# cuBLASLt is a header to both; what is loaded at run time comes from a library, or from its stand-in. Without the header
# our own kernels multiply in every run.
find_path(RANKINE_BLAS_INCLUDE cublasLt.h HINTS ${CUDAToolkit_INCLUDE_DIRS} PATH_SUFFIXES include)
if(RANKINE_BLAS_INCLUDE)
    list(FILTER RANKINE_CUDA_C EXCLUDE REGEX "/blas_none[.]c$")
else()
    list(FILTER RANKINE_CUDA_C EXCLUDE REGEX "/blas(_load|_plan|_epilogue)?[.]c$")
    list(FILTER RANKINE_CUDA_EMU EXCLUDE REGEX "/cublaslt[.]cpp$")
endif()
set(RANKINE_CUDA_HOST_C ${RANKINE_CUDA_C})
list(FILTER RANKINE_CUDA_HOST_C EXCLUDE REGEX "/[a-z]*_load[.]c$")
set(RANKINE_CUDA_HEADERS "${CUDAToolkit_INCLUDE_DIRS}" CACHE INTERNAL "where CUDA's headers are, for tests")
set(RANKINE_CUDA_VERSION "${CUDAToolkit_VERSION}" CACHE INTERNAL "of the toolkit, for tests")

include(CheckLanguage)
check_language(CXX)
if(RANKINE_CUDA_HOST AND CUDAToolkit_INCLUDE_DIRS AND CMAKE_CXX_COMPILER AND NOT RANKINE_FUZZ)
    enable_language(CXX)
    set(CMAKE_CXX_FLAGS_RELEASE "-O2")
    set_source_files_properties(${RANKINE_CUDA_KERNELS} PROPERTIES LANGUAGE CXX)
    # Fused multiply-adds are slow without the instruction; nothing but tests of this machine runs this library.
    set(RANKINE_CUDA_HOST_FLAGS "")
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND EXISTS /proc/cpuinfo)
        file(STRINGS /proc/cpuinfo fma REGEX "^flags.* fma .*avx2" LIMIT_COUNT 1)
        if(fma)
            set(RANKINE_CUDA_HOST_FLAGS -mavx2 -mfma -mf16c)
        endif()
    endif()
    add_library(rankine_cuda_host_kernels OBJECT ${RANKINE_CUDA_KERNELS})
    target_compile_options(rankine_cuda_host_kernels PRIVATE -x c++ -Wno-unused-variable -Wno-unused-function
        -Wno-strict-aliasing -Wno-unknown-pragmas ${RANKINE_CUDA_HOST_FLAGS})
    add_library(rankine_cuda_host MODULE ${RANKINE_CUDA_HOST_C} ${RANKINE_CUDA_EMU}
        $<TARGET_OBJECTS:rankine_cuda_host_kernels>)
    foreach(target rankine_cuda_host_kernels rankine_cuda_host)
        set_target_properties(${target} PROPERTIES CXX_STANDARD 17 CXX_EXTENSIONS ON POSITION_INDEPENDENT_CODE ON)
        target_compile_definitions(${target} PRIVATE RK_EMU _GNU_SOURCE RK_CUDA_BUILT="run on the host")
        target_compile_options(${target} PRIVATE -g -Wall -Wextra -Wno-missing-field-initializers -ffp-contract=off
            -fno-math-errno -fvisibility=hidden $<$<COMPILE_LANGUAGE:C>:-Werror=incompatible-pointer-types>
            $<$<BOOL:${RANKINE_WERROR}>:-Werror>)
        target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
        target_include_directories(${target} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
        if(RANKINE_SANITIZE)
            target_compile_options(${target} PRIVATE -fsanitize=${RANKINE_SANITIZE} -fno-omit-frame-pointer)
        endif()
    endforeach()
    if(RANKINE_SANITIZE)
        target_link_options(rankine_cuda_host PRIVATE -fsanitize=${RANKINE_SANITIZE})
        if(RANKINE_SANITIZE MATCHES "address") # the turns of a kernel's threads take longer than the kernel with it
            set_source_files_properties(src/cuda/host/grid.cpp PROPERTIES COMPILE_OPTIONS "-fno-sanitize=all;-DRK_EMU_ASAN")
        endif()
    endif()
    target_link_libraries(rankine_cuda_host PRIVATE Threads::Threads m)
    if(RANKINE_NCCL_INCLUDE)
        target_compile_definitions(rankine_cuda_host PRIVATE RK_CUDA_NCCL)
        target_include_directories(rankine_cuda_host SYSTEM PRIVATE ${RANKINE_NCCL_INCLUDE})
    endif()
    target_link_options(rankine_cuda_host PRIVATE -Wl,--no-undefined)
    set_target_properties(rankine_cuda_host PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
    set(RANKINE_CUDA_HOST_BUILT TRUE)
endif()

# The check build of the same: clang instruments kernels and host code, and what it calls is the emulation's own checker
# (src/cuda/host/check.h). Copies of structs, which clang makes calls of memcpy, are sent there too. The emulation itself
# is not instrumented.
find_program(RANKINE_CLANGXX clang++)
find_program(RANKINE_CLANG clang)
set(RANKINE_CUDA_CHECK_BUILT FALSE)
if(RANKINE_CUDA_HOST_BUILT AND RANKINE_CLANGXX AND RANKINE_CLANG AND CMAKE_OBJCOPY AND NOT RANKINE_SANITIZE)
    set(check_flags -DRK_EMU -DRK_CHECK -D_GNU_SOURCE "-DRK_CUDA_BUILT=\"checked on the host\"" -g -O1 -fsanitize=thread
        -mllvm -tsan-instrument-read-before-write=1 # or x += y counts, and is looked at, as a write alone
        -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno -Wall -Wno-unused-variable -Wno-unused-function
        ${RANKINE_CUDA_HOST_FLAGS}
        -I${PROJECT_SOURCE_DIR}/include -I${PROJECT_SOURCE_DIR}/src -isystem ${CUDAToolkit_INCLUDE_DIRS}
        -isystem ${RANKINE_NCCL_DIR})
    if(RANKINE_NCCL_INCLUDE)
        list(APPEND check_flags -DRK_CUDA_NCCL)
    endif()
    # rankine_cuda_check_object(OUT SOURCE): an instrumented object of a .cu or .c file
    function(rankine_cuda_check_object out source)
        get_filename_component(name ${source} NAME)
        set(object ${PROJECT_BINARY_DIR}/check/${name}.o)
        set(compile ${RANKINE_CLANG} -std=gnu11)
        if(source MATCHES "[.]cu$")
            set(compile ${RANKINE_CLANGXX} -x c++ -std=gnu++17)
        endif()
        add_custom_command(OUTPUT ${object}
            COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} ${compile} ${check_flags} -MD -MT ${object} -MF ${object}.d -c ${source} -o ${object}
            COMMAND ${CMAKE_OBJCOPY} --redefine-sym memcpy=rk_emu_memcpy --redefine-sym memset=rk_emu_memset
                    --redefine-sym memmove=rk_emu_memmove ${object}
            DEPENDS ${source} DEPFILE ${object}.d COMMENT "checked ${name}" VERBATIM)
        set(${out} ${object} PARENT_SCOPE)
    endfunction()
    file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/check)
    set(checked)
    foreach(source ${RANKINE_CUDA_KERNELS} ${RANKINE_CUDA_HOST_C})
        rankine_cuda_check_object(object ${source})
        list(APPEND checked ${object})
    endforeach()
    add_library(rankine_cuda_check_emu OBJECT ${RANKINE_CUDA_EMU})
    target_compile_definitions(rankine_cuda_check_emu PRIVATE RK_EMU RK_CHECK _GNU_SOURCE)
    target_compile_options(rankine_cuda_check_emu PRIVATE -g -Wall -Wextra -Wno-missing-field-initializers
        -fvisibility=hidden $<$<BOOL:${RANKINE_WERROR}>:-Werror>)
    target_include_directories(rankine_cuda_check_emu PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
    target_include_directories(rankine_cuda_check_emu SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS}
        $<$<BOOL:${RANKINE_NCCL_INCLUDE}>:${RANKINE_NCCL_INCLUDE}>)
    set_target_properties(rankine_cuda_check_emu PROPERTIES CXX_STANDARD 17 CXX_EXTENSIONS ON
        POSITION_INDEPENDENT_CODE ON)
    add_library(rankine_cuda_check MODULE ${checked} $<TARGET_OBJECTS:rankine_cuda_check_emu>)
    target_link_libraries(rankine_cuda_check PRIVATE Threads::Threads m)
    target_link_options(rankine_cuda_check PRIVATE -Wl,--no-undefined)
    set_target_properties(rankine_cuda_check PROPERTIES LINKER_LANGUAGE CXX LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
    set(RANKINE_CUDA_CHECK_BUILT TRUE)
    message(STATUS "CUDA device, checked on the host: librankine_cuda_check.so, by ${RANKINE_CLANGXX}")
else()
    message(STATUS "CUDA device, checked on the host: not built (needs the host-run one, clang++ and objcopy)")
endif()
if(RANKINE_CUDA_HOST_BUILT)
    message(STATUS "CUDA device, run on the host: librankine_cuda_host.so, with ${CUDAToolkit_INCLUDE_DIRS}")
else()
    message(STATUS "CUDA device, run on the host: not built (no CUDA headers, no C++ compiler, or RANKINE_CUDA_HOST is OFF)")
endif()

# Programs of kernels and host code over the stand-ins alone, each in the fast, the asan and the check build: planted
# bugs (tests/cuda/planted.cu), and what graphs do (graphs.cu).
if(BUILD_TESTING AND RANKINE_CUDA_HOST_BUILT AND NOT RANKINE_SANITIZE)
    set(emu_includes -I${PROJECT_SOURCE_DIR}/include -I${PROJECT_SOURCE_DIR}/src -isystem ${CUDAToolkit_INCLUDE_DIRS})
    set(emu_common -x c++ -std=gnu++17 -g -Wno-unused-variable ${RANKINE_CUDA_HOST_FLAGS})
    set(asan_flags -O1 -g -fsanitize=address,undefined,alignment -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
    foreach(kind fast asan)
        add_library(rankine_cuda_emu_${kind} OBJECT ${RANKINE_CUDA_EMU})
    endforeach()
    target_compile_options(rankine_cuda_emu_fast PRIVATE -g)
    target_compile_options(rankine_cuda_emu_asan PRIVATE ${asan_flags})
    foreach(kind fast asan)
        target_compile_definitions(rankine_cuda_emu_${kind} PRIVATE RK_EMU _GNU_SOURCE)
        target_include_directories(rankine_cuda_emu_${kind} PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
        target_include_directories(rankine_cuda_emu_${kind} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS}
            $<$<BOOL:${RANKINE_NCCL_INCLUDE}>:${RANKINE_NCCL_INCLUDE}>)
        set_target_properties(rankine_cuda_emu_${kind} PROPERTIES CXX_STANDARD 17 CXX_EXTENSIONS ON)
    endforeach()
    foreach(program planted graphs)
        set(source ${PROJECT_SOURCE_DIR}/tests/cuda/${program}.cu)
        foreach(kind fast asan)
            set(object ${PROJECT_BINARY_DIR}/check/${program}_${kind}.o)
            set(flags -O2)
            if(kind STREQUAL asan)
                set(flags ${asan_flags})
            endif()
            add_custom_command(OUTPUT ${object}
                COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} ${CMAKE_CXX_COMPILER} ${emu_common} -DRK_EMU -D_GNU_SOURCE ${flags} ${emu_includes}
                        -MD -MT ${object} -MF ${object}.d -c ${source} -o ${object}
                DEPENDS ${source} DEPFILE ${object}.d COMMENT "${program}, ${kind}" VERBATIM)
            add_executable(${program}_${kind} ${object} $<TARGET_OBJECTS:rankine_cuda_emu_${kind}>)
        endforeach()
        target_link_options(${program}_asan PRIVATE -fsanitize=address,undefined)
        if(RANKINE_CUDA_CHECK_BUILT)
            rankine_cuda_check_object(object ${source})
            add_executable(${program}_check ${object} $<TARGET_OBJECTS:rankine_cuda_check_emu>)
        endif()
        foreach(kind fast asan check)
            if(TARGET ${program}_${kind})
                target_link_libraries(${program}_${kind} PRIVATE Threads::Threads m)
                set_target_properties(${program}_${kind} PROPERTIES LINKER_LANGUAGE CXX
                    RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
            endif()
        endforeach()
    endforeach()
endif()

# ---- for GPUs: nvcc compiles the kernels, the usual compiler all else; cudart is linked statically, and so nothing of
# CUDA is needed to start. Commands of our own: one .cu file cannot be C++ and CUDA at once to CMake. ----
set(RANKINE_NVCC "${CUDAToolkit_NVCC_EXECUTABLE}")
if(NOT RANKINE_NVCC)
    find_program(RANKINE_NVCC_FOUND nvcc HINTS ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
    set(RANKINE_NVCC "${RANKINE_NVCC_FOUND}")
endif()
if(RANKINE_CUDA STREQUAL "ON" AND NOT (RANKINE_NVCC AND TARGET CUDA::cudart_static))
    message(FATAL_ERROR "RANKINE_CUDA is ON: nvcc and cudart_static of a CUDA toolkit are needed; CUDAToolkit_ROOT names it")
endif()
if(NOT RANKINE_CUDA STREQUAL "OFF" AND RANKINE_NVCC AND CMAKE_CXX_COMPILER AND TARGET CUDA::cudart_static AND NOT RANKINE_FUZZ
        AND NOT RANKINE_SANITIZE)
    set(gencode)
    set(names)
    foreach(arch ${RANKINE_CUDA_ARCHITECTURES})
        list(APPEND gencode -gencode arch=compute_${arch},code=sm_${arch})
        list(APPEND names sm_${arch})
    endforeach()
    list(APPEND gencode -gencode arch=compute_${RANKINE_CUDA_LAST},code=compute_${RANKINE_CUDA_LAST})
    list(JOIN names ", " names)
    # A kernel that spills registers is to be written anew: warnings of ptxas are errors.
    set(RANKINE_NVCC_FLAGS -std=c++17 -O3 -fmad=false -lineinfo -Xptxas -v,-warn-spills -Werror all-warnings
        -Xcompiler=-fPIC,-fvisibility=hidden,-ffp-contract=off -D_GNU_SOURCE
        -I${PROJECT_SOURCE_DIR}/include -I${PROJECT_SOURCE_DIR}/src)
    set(objects)
    foreach(source ${RANKINE_CUDA_KERNELS})
        get_filename_component(name ${source} NAME_WE)
        set(object ${PROJECT_BINARY_DIR}/nvcc/${name}.o)
        add_custom_command(OUTPUT ${object}
            COMMAND ${PROJECT_SOURCE_DIR}/cmake/kept.sh ${PROJECT_BINARY_DIR}/nvcc/${name}.ptxas
                    ${CMAKE_CXX_COMPILER_LAUNCHER} ${RANKINE_NVCC} ${RANKINE_NVCC_FLAGS} ${gencode} -MD -MF ${object}.d -c ${source} -o ${object}
            DEPENDS ${source} DEPFILE ${object}.d COMMENT "nvcc ${name}.cu" VERBATIM)
        list(APPEND objects ${object})
    endforeach()
    file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/nvcc)
    enable_language(CXX)
    add_library(rankine_cuda MODULE ${RANKINE_CUDA_C} ${objects})
    if(RANKINE_NCCL_INCLUDE)
        target_compile_definitions(rankine_cuda PRIVATE RK_CUDA_NCCL)
        target_include_directories(rankine_cuda SYSTEM PRIVATE ${RANKINE_NCCL_INCLUDE})
        set(names_of_nccl ", for NCCL as in ${RANKINE_NCCL_INCLUDE}")
    else()
        set(names_of_nccl ", without NCCL (nccl.h was not found)")
    endif()
    target_compile_definitions(rankine_cuda PRIVATE
        RK_CUDA_BUILT="CUDA ${CUDAToolkit_VERSION_MAJOR}.${CUDAToolkit_VERSION_MINOR} for ${names}")
    target_include_directories(rankine_cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
    target_link_libraries(rankine_cuda PRIVATE rankine_flags CUDA::cudart_static ${CMAKE_DL_LIBS})
    target_link_options(rankine_cuda PRIVATE -Wl,--no-undefined -Wl,--exclude-libs,ALL)
    set_target_properties(rankine_cuda PROPERTIES LINKER_LANGUAGE CXX LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
    install(TARGETS rankine_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
    set(RANKINE_CUDA_BUILT TRUE)
    message(STATUS "CUDA device for GPUs: librankine_cuda.so, ${names}, by ${RANKINE_NVCC}${names_of_nccl}")
else()
    message(STATUS "CUDA device for GPUs: not built (no nvcc, a sanitizer's build, or RANKINE_CUDA is OFF)")
endif()

# Where an installed program finds the library.
set_property(SOURCE src/core/cuda_load.c APPEND PROPERTY COMPILE_DEFINITIONS RK_LIBDIR="${CMAKE_INSTALL_LIBDIR}")
