"""Compiles CUDA kernels with NVRTC, which needs no GPU: compile_kernels.py FOLDER

The folder holds files named ANYTHING.ARCHITECTURE.cu. NVRTC comes from the nvidia-cuda-nvrtc package.
"""

import ctypes
import functools
import multiprocessing
import pathlib
import sys

import nvidia


@functools.cache
def load_nvrtc() -> ctypes.CDLL:
    for root in map(pathlib.Path, nvidia.__path__):
        for library in sorted(root.glob("**/libnvrtc.so.*")):
            # NVRTC looks for its builtins by bare name, so they are loaded first.
            for builtins in library.parent.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(library))
    sys.exit("libnvrtc was not found beside the nvidia packages")


def compile_file(path: pathlib.Path) -> tuple[bool, int, str]:
    """Whether it compiled, the size of the machine code, and what the compiler said."""
    nvrtc = load_nvrtc()
    architecture = path.suffixes[-2].lstrip(".")
    program = ctypes.c_void_p()
    created = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), path.read_bytes(), path.name.encode(), 0, None, None
    )
    assert created == 0, f"NVRTC: {created}"
    options = (ctypes.c_char_p * 1)(f"--gpu-architecture={architecture}".encode())
    status = nvrtc.nvrtcCompileProgram(program, 1, options)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    size.value = 0
    if status == 0:
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return status == 0 and size.value > 0, size.value, log.value.decode()


def main() -> None:
    files = sorted(pathlib.Path(sys.argv[1]).glob("*.cu"))
    assert files, "no kernels to compile"
    failed = 0
    with multiprocessing.Pool() as pool:
        for path, (fine, size, log) in zip(files, pool.imap(compile_file, files)):
            with path.open() as source:
                what = source.readline().strip("/ \n")
            print(f"{'ok' if fine else 'FAILED':6} {size:7} bytes  {path.suffixes[-2][1:]:7} {what}")
            if not fine or "warning" in log:
                print(log)
            failed += not fine
    print(f"{len(files) - failed} of {len(files)} kernels compiled")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
