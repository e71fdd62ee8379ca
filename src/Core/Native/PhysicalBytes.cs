using System.ComponentModel;
using System.Runtime.InteropServices;
using FramePin.Core.Addressing;
using Microsoft.Win32.SafeHandles;

namespace FramePin.Core.Native;

/// <summary>
/// The bytes of a machine's physical memory: one memfd, mapped whole and sparse. A frame that nobody wrote costs
/// nothing.
/// </summary>
/// <remarks>Owned by the machine; disposing it invalidates every span handed out.</remarks>
internal sealed unsafe class PhysicalBytes : IDisposable
{
    private readonly int _fd;

    /// <summary>The same file, opened for reading alone.</summary>
    private readonly int _readOnly;
    private readonly byte* _base;
    private bool _disposed;

    /// <summary>
    /// Creates <paramref name="frames"/> frames of zeroes. Throws <see cref="Win32Exception"/> when the host refuses.
    /// </summary>
    public PhysicalBytes(string name, ulong frames)
    {
        Frames = frames;
        var length = checked((long)(frames * PageGeometry.PageSize));
        _fd = LibC.memfd_create(name, LibC.MfdCloexec | LibC.MfdAllowSealing);
        if (_fd < 0) throw LibC.Refused(Marshal.GetLastPInvokeError(), "memfd_create");
        // Handed to attached processes: its size stays, and nobody else can open it anew for more than they were given.
        _readOnly = LibC.open($"/proc/self/fd/{_fd}", LibC.ReadOnly | LibC.CloseOnExec);
        var isSized = _readOnly >= 0 && LibC.ftruncate(_fd, length) == 0
            && LibC.fchmod(_fd, LibC.OwnerReadsAndWrites) == 0
            && LibC.fcntl(_fd, LibC.AddSeals, LibC.SealShrink | LibC.SealGrow | LibC.SealSeal) == 0;
        if (!isSized)
        {
            var error = Marshal.GetLastPInvokeError();
            CloseBoth();
            throw LibC.Refused(error, "sizing the machine's memory");
        }

        // SAFETY: a fresh shared mapping of the whole file, which only this object unmaps.
        var address = LibC.mmap(
            null, (nuint)length, LibC.ProtRead | LibC.ProtWrite, LibC.MapShared | LibC.MapNoReserve, _fd, 0);
        if ((nint)address == -1)
        {
            var error = Marshal.GetLastPInvokeError();
            CloseBoth();
            throw LibC.Refused(error, "mapping the machine's memory");
        }

        _base = (byte*)address;
    }

    /// <summary>Number of frames.</summary>
    public ulong Frames { get; }

    /// <summary>
    /// The bytes of <paramref name="count"/> frames from <paramref name="first"/> on; at most 2 GiB at once.
    /// </summary>
    public Span<byte> Of(Pfn first, ulong count = 1)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (first.Value >= Frames || count > Frames - first.Value)
            throw new ArgumentOutOfRangeException(nameof(first), "frame outside physical memory");
        // SAFETY: the range was just checked against the mapping, which lives as long as this object.
        return new Span<byte>(_base + first.PhysicalAddress, checked((int)(count * PageGeometry.PageSize)));
    }

    /// <summary>Makes frames read as zero again and returns their host memory (a hole in the memfd).</summary>
    public void Punch(Pfn first, ulong count)
    {
        // SAFETY: a range inside the mapping; MADV_REMOVE on a shared memfd mapping punches the hole.
        var result = LibC.madvise(
            _base + first.PhysicalAddress, (nuint)(count * PageGeometry.PageSize), LibC.MadvRemove);
        if (result != 0) throw LibC.Refused(Marshal.GetLastPInvokeError(), "punching physical memory");
    }

    /// <summary>The same memory by a descriptor of its own, for another process.</summary>
    public SafeFileHandle Open(bool isReadOnly)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        // Copied and not opened: whoever has a descriptor may hold a lock or a lease on the file, or change its mode,
        // and open(2) would wait or be refused.
        var descriptor = LibC.fcntl(isReadOnly ? _readOnly : _fd, LibC.DuplicateCloseOnExec, 0);
        return descriptor >= 0
            ? new SafeFileHandle(descriptor, ownsHandle: true)
            : throw LibC.Refused(Marshal.GetLastPInvokeError(), "copying the descriptor of physical memory");
    }

    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        // SAFETY: nobody may hold a span now; the machine that owns this object has ended its users.
        _ = LibC.munmap(_base, (nuint)(Frames * PageGeometry.PageSize));
        CloseBoth();
    }

    private void CloseBoth()
    {
        _ = LibC.close(_fd);
        if (_readOnly >= 0) _ = LibC.close(_readOnly);
    }
}
