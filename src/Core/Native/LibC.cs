using System.ComponentModel;
using System.Runtime.InteropServices;

namespace FramePin.Core.Native;

/// <summary>
/// The system calls that the emulated physical memory stands on. No other room calls the host's libc.
/// </summary>
internal static unsafe partial class LibC
{
    internal const int ProtRead = 1;
    internal const int ProtWrite = 2;
    internal const int MapShared = 1;
    internal const int MapPrivate = 2;
    internal const int MapAnonymous = 0x20;
    internal const int MapNoReserve = 0x4000;
    internal const int MadvRemove = 9;
    internal const uint MfdCloexec = 1;
    internal const uint MfdAllowSealing = 2;

    /// <summary>What the host refused, and why.</summary>
    /// <param name="error">Its errno.</param>
    /// <param name="what">What was asked of it.</param>
    internal static Win32Exception Refused(int error, string what) =>
        new(error, $"{what}: {Marshal.GetPInvokeErrorMessage(error)}");

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int memfd_create(string name, uint flags);

    internal const int ReadOnly = 0;
    internal const int CloseOnExec = 0x8_0000;

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int open(string path, int flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int ftruncate(int fd, long length);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial void* mmap(void* address, nuint length, int prot, int flags, int fd, long offset);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int munmap(void* address, nuint length);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int madvise(void* address, nuint length, int advice);

    internal const int DuplicateCloseOnExec = 1030;
    internal const int AddSeals = 1033;
    internal const int SealSeal = 1;
    internal const int SealShrink = 2;
    internal const int SealGrow = 4;
    internal const uint OwnerReadsAndWrites = 0b110_000_000;

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int fcntl(int fd, int command, int argument);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int fchmod(int fd, uint mode);

    internal const int SeekData = 3;

    [LibraryImport("libc", SetLastError = true)]
    internal static partial long lseek(int fd, long offset, int whence);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int mincore(void* address, nuint length, byte* vector);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint pwrite(int fd, void* bytes, nuint length, long offset);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int close(int fd);
}
