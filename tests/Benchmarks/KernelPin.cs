using System.ComponentModel;
using System.Runtime.InteropServices;

namespace FramePin.Benchmarks;

/// <summary>
/// The machine's own kernel as yardstick: io_uring REGISTER_BUFFERS, which is pin_user_pages_fast(FOLL_WRITE |
/// FOLL_LONGTERM), and UNREGISTER_BUFFERS, by raw system calls.
/// </summary>
internal sealed unsafe partial class KernelPin : IDisposable
{
    private const long IoUringSetup = 425;
    private const long IoUringRegister = 427;
    private const uint RegisterBuffers = 0;
    private const uint UnregisterBuffers = 1;
    private const int MadvHugePage = 14;
    private const ulong Page = 4096;
    private const ulong Huge = 2UL << 20;

    private readonly int _ring;
    private readonly byte* _mapped;
    private readonly nuint _mappedLength;
    private readonly byte* _buffer;

    /// <summary>Maps and fills <paramref name="pages"/> anonymous pages, in huge pages if asked.</summary>
    public KernelPin(int pages, bool isHuge)
    {
        var parameters = stackalloc byte[256];
        new Span<byte>(parameters, 256).Clear();
        _ring = (int)syscall(IoUringSetup, 4, (nint)parameters, 0, 0);
        if (_ring < 0) throw new Win32Exception(Marshal.GetLastPInvokeError(), "io_uring_setup");
        Pages = pages;
        _mappedLength = (nuint)(((ulong)pages * Page) + (2 * Huge));
        // SAFETY: an anonymous private mapping of our own.
        _mapped = (byte*)mmap(null, _mappedLength, 3, 0x22, -1, 0);
        _buffer = (byte*)(((nuint)_mapped + (nuint)Huge - 1) & ~((nuint)Huge - 1));
        _ = madvise(_buffer, (nuint)((ulong)pages * Page), isHuge ? MadvHugePage : 15);
        // In random order, as FramePin's pages are: neighbours lie on scattered frames on both sides.
        var order = Enumerable.Range(0, pages).ToArray();
        if (!isHuge) new Random(12345).Shuffle(order);
        foreach (var page in order) _buffer[(ulong)page * Page] = 1;
    }

    public int Pages { get; }

    public void Pin()
    {
        var vector = stackalloc nuint[2];
        vector[0] = (nuint)_buffer;
        vector[1] = (nuint)((ulong)Pages * Page);
        if (syscall(IoUringRegister, _ring, (nint)RegisterBuffers, (nint)vector, 1) < 0)
            throw new Win32Exception(Marshal.GetLastPInvokeError(), "REGISTER_BUFFERS");
    }

    public void Unpin()
    {
        if (syscall(IoUringRegister, _ring, (nint)UnregisterBuffers, 0, 0) < 0)
            throw new Win32Exception(Marshal.GetLastPInvokeError(), "UNREGISTER_BUFFERS");
    }

    public void Dispose()
    {
        _ = close(_ring);
        _ = munmap(_mapped, _mappedLength);
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial long syscall(long number, nint a, nint b, nint c, nint d);

    [LibraryImport("libc", SetLastError = true)]
    private static partial void* mmap(void* address, nuint length, int prot, int flags, int fd, long offset);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int munmap(void* address, nuint length);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int madvise(void* address, nuint length, int advice);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int close(int fd);
}
