namespace FramePin.Conformance.Kernel;

/// <summary>Numbers of the x86-64 system calls that scripts make.</summary>
internal static class SystemCall
{
    public const ulong Read = 0;
    public const ulong Write = 1;
    public const ulong Close = 3;
    public const ulong Mmap = 9;
    public const ulong Mprotect = 10;
    public const ulong Munmap = 11;
    public const ulong Brk = 12;
    public const ulong Pread = 17;
    public const ulong Pwrite = 18;
    public const ulong Mremap = 25;
    public const ulong Msync = 26;
    public const ulong Mincore = 27;
    public const ulong Madvise = 28;
    public const ulong Fcntl = 72;
    public const ulong Ftruncate = 77;
    public const ulong Munlock = 150;
    public const ulong MlockAll = 151;
    public const ulong MunlockAll = 152;
    public const ulong SetResUid = 117;
    public const ulong Prctl = 157;
    public const ulong Futex = 202;
    public const ulong OpenAt = 257;
    public const ulong Vmsplice = 278;
    public const ulong MovePages = 279;
    public const ulong Fallocate = 285;
    public const ulong Pipe2 = 293;
    public const ulong PerfEventOpen = 298;
    public const ulong Prlimit = 302;
    public const ulong MemfdCreate = 319;
    public const ulong Mlock2 = 325;
    public const ulong IoUringSetup = 425;
    public const ulong IoUringRegister = 427;
    public const ulong MemfdSecret = 447;
    public const ulong Mseal = 462;
}
