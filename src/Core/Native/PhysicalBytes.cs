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
    /// <summary>Frames below which a copy makes no system call.</summary>
    private const ulong FewFrames = 8;

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
    public void Punch(Pfn first, ulong count) =>
        PunchBytes((long)first.PhysicalAddress, (long)(count * PageGeometry.PageSize));

    private void PunchBytes(long offset, long length)
    {
        // SAFETY: a range inside the mapping; MADV_REMOVE on a shared memfd mapping punches the hole.
        var result = LibC.madvise(_base + offset, (nuint)length, LibC.MadvRemove);
        if (result != 0) throw LibC.Refused(Marshal.GetLastPInvokeError(), "punching physical memory");
    }

    /// <summary>
    /// Copies frames onto others. What nobody ever wrote reads as zero in the copy too, and costs no host memory on
    /// either side. Under the turn.
    /// </summary>
    /// <remarks>
    /// Long runs go by pwrite: a page of the file that is not there yet is then filled once, and not zeroed, mapped and
    /// filled. A few frames are copied where they are mapped, without a system call.
    /// </remarks>
    public void Copy(Pfn from, Pfn to, ulong count)
    {
        if (count < FewFrames)
        {
            Of(from, count).CopyTo(Of(to, count));
            return;
        }

        // The ends are checked as those of spans are, and the first frames lie before them.
        _ = Of(from + (count - 1));
        _ = Of(to + (count - 1));
        const int most = PageGeometry.EntriesPerTable;
        for (var done = 0UL; done < count; done += most)
            CopyPart(from + done, to + done, (int)Math.Min(most, count - done));
    }

    /// <summary>
    /// Copies what the host has in its cache. The rest is a hole, or was swapped out by the host: SEEK_DATA tells.
    /// </summary>
    private void CopyPart(Pfn from, Pfn to, int count)
    {
        const int page = (int)PageGeometry.PageSize;
        Span<byte> isCached = stackalloc byte[PageGeometry.EntriesPerTable];
        var (start, target) = ((long)from.PhysicalAddress, (long)to.PhysicalAddress);
        // SAFETY: the pages of the range, which the caller checked, and a byte for each.
        fixed (byte* vector = isCached)
            if (LibC.mincore(_base + start, (nuint)count * page, vector) != 0)
                throw LibC.Refused(Marshal.GetLastPInvokeError(), "looking at physical memory");
        for (var at = 0; at < count;)
        {
            var cached = at;
            while (cached < count && (isCached[cached] & 1) != 0) cached++;
            if (cached > at)
            {
                CopyBytes(start + ((long)at * page), target + ((long)at * page), (long)(cached - at) * page);
                at = cached;
                continue;
            }

            var data = (int)Math.Min((FindData(start + ((long)at * page)) - start) / page, count);
            if (data > at) PunchBytes(target + ((long)at * page), (long)(data - at) * page);
            else CopyBytes(start + ((long)at * page), target + ((long)at * page), page);
            at = Math.Max(data, at + 1);
        }
    }

    private void CopyBytes(long from, long to, long length)
    {
        while (length > 0)
        {
            // SAFETY: bytes of the mapping, within the range that Copy checked.
            var written = LibC.pwrite(_fd, _base + from, (nuint)length, to);
            if (written <= 0) throw LibC.Refused(Marshal.GetLastPInvokeError(), "copying physical memory");
            (from, to, length) = (from + written, to + written, length - written);
        }
    }

    /// <summary>The first byte of data at or behind an offset of the file; its end when there is none.</summary>
    private long FindData(long from)
    {
        const int noSuchAddress = 6;
        var found = LibC.lseek(_fd, from, LibC.SeekData);
        if (found >= 0) return found;
        var error = Marshal.GetLastPInvokeError();
        return error == noSuchAddress
            ? (long)(Frames * PageGeometry.PageSize)
            : throw LibC.Refused(error, "looking for holes in physical memory");
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
