using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Frames;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;

namespace FramePin.Core.Machines;

/// <summary>Memory files and devices.</summary>
public sealed partial class Machine
{
    /// <summary>
    /// A memory file of <paramref name="size"/> bytes; null when no table is left or the hugetlb size has no pool.
    /// </summary>
    /// <param name="name">Path as maps shows it.</param>
    /// <param name="kind">File system.</param>
    /// <param name="size">Bytes.</param>
    /// <param name="hugeOrder">log2 of the frames of a page for hugetlbfs (9 or 18), 0 for the other kinds.</param>
    /// <param name="deviceNumber">"major:minor" in hex, as maps shows it.</param>
    /// <param name="inode">Inode number, as maps shows it.</param>
    public MemoryFile? CreateFile(
        string name, FileKind kind, ulong size, int hugeOrder = 0, string? deviceNumber = null, ulong inode = 0)
    {
        using var turn = EnterTurn();
        if (kind == FileKind.HugeTlb && !_kernel.HugePools.ContainsKey(hugeOrder)) return null;
        if (_kernel.CreateFile(name, kind, size, kind == FileKind.HugeTlb ? hugeOrder : 0) is not { } file) return null;
        if (deviceNumber is not null) file.DeviceNumber = deviceNumber;
        file.Inode = inode != 0 ? inode : (ulong)file.Id;
        return file;
    }

    /// <summary>fsync: dirty pages are written back and, in shared mappings, write-protected.</summary>
    public void Fsync(MemoryFile file)
    {
        using var turn = EnterTurn();
        if (file.TracksDirty) MsyncCall.Clean(_kernel, file, 0, PageGeometry.PagesOf(file.Size));
    }

    /// <summary>chmod: whether users who do not own the file may write it, and so see what is cached of it.</summary>
    public void SetOthersMayWrite(MemoryFile file, bool mayWrite)
    {
        using var turn = EnterTurn();
        file.OthersMayWrite = mayWrite;
    }

    /// <summary>The file loses its name; it goes with its last mapping.</summary>
    public void Unlink(MemoryFile file)
    {
        using var turn = EnterTurn();
        if (file.Unlinked) return;
        file.Unlinked = true;
        _kernel.DropIfUnused(file);
    }

    /// <summary>ftruncate to <paramref name="size"/> bytes. -EINVAL for a part of a huge page.</summary>
    public Errno Truncate(MemoryFile file, ulong size)
    {
        if (!PageGeometry.IsAligned(size, PageGeometry.PageSize << file.Order)
            && file.Kind == FileKind.HugeTlb)
            return Errno.EINVAL;
        using var turn = EnterTurn();
        FileCalls.Truncate(_kernel, file, size);
        return Errno.None;
    }

    /// <summary>fallocate(PUNCH_HOLE | KEEP_SIZE) of [offset, offset + length) bytes.</summary>
    public Errno PunchHole(MemoryFile file, ulong offset, ulong length)
    {
        if (length == 0 || offset + length < offset) return Errno.EINVAL;
        if (file.Kind == FileKind.Secret) return Errno.EOPNOTSUPP;
        using var turn = EnterTurn();
        if (file.WriteSealed) return Errno.EPERM;
        FileCalls.PunchHole(_kernel, file, offset, length);
        return Errno.None;
    }

    /// <summary>
    /// F_SEAL_WRITE: -EBUSY while a shared writable mapping exists or a page has references that neither mappings nor
    /// the cache account for (memfd_wait_for_pins).
    /// </summary>
    public Errno SealWrite(MemoryFile file)
    {
        using var turn = EnterTurn();
        if (file.WriteSealed) return Errno.None;
        foreach (var space in _kernel.Spaces)
            foreach (var vma in space.Vmas.All)
                if (ReferenceEquals(vma.File, file) && vma.Has(VmFlags.Shared | VmFlags.MayWrite)) return Errno.EBUSY;
        foreach (var (_, head) in file.CachedFolios())
            if (_kernel.Memory.Frames.RefCount(head) != _kernel.Memory.Frames[head].MapCount + 1) return Errno.EBUSY;
        file.WriteSealed = true;
        return Errno.None;
    }

    /// <summary>
    /// pread: bytes copied, fewer at the end of the file or when memory is out; holes read as zeroes.
    /// </summary>
    public int ReadFile(MemoryFile file, ulong offset, Span<byte> buffer)
    {
        using var turn = EnterTurn();
        var done = 0;
        while (done < buffer.Length && offset + (ulong)done < file.Size)
        {
            var at = offset + (ulong)done;
            var within = (int)(at & ~PageGeometry.PageMask);
            var length = (int)Math.Min(
                (ulong)Math.Min(buffer.Length - done, (int)PageGeometry.PageSize - within), file.Size - at);
            var part = buffer.Slice(done, length);
            var index = at >> PageGeometry.PageShift;
            // A page in swap comes back into the file (shmem_get_folio).
            var isInSwap = file.Kind == FileKind.Shmem && file.Stored(index) is not null;
            if (isInSwap && FaultHandler.FindOrAddPage(
                _kernel, null, file, index, 0, AllocationContext.Movable) is null)
                break;
            if (file.Lookup(index) is { } pfn) _kernel.Memory.Bytes.Of(pfn).Slice(within, length).CopyTo(part);
            else if (file.Stored(index) is { } stored) stored.AsSpan(within, length).CopyTo(part);
            else part.Clear();
            done += length;
        }

        return done;
    }

    /// <summary>
    /// pwrite: extends the file as needed; fewer bytes than given when memory is out. -EPERM when sealed, -ESPIPE for
    /// secret memory, -EINVAL for hugetlbfs, which have no write.
    /// </summary>
    public int WriteFile(MemoryFile file, ulong offset, ReadOnlySpan<byte> bytes, out Errno error)
    {
        using var turn = EnterTurn();
        error = file.Kind switch
        {
            FileKind.Secret => Errno.ESPIPE,
            FileKind.HugeTlb => Errno.EINVAL,
            _ => file.WriteSealed ? Errno.EPERM : Errno.None,
        };
        if (error != Errno.None) return 0;
        var done = 0;
        while (done < bytes.Length)
        {
            var at = offset + (ulong)done;
            var within = (int)(at & ~PageGeometry.PageMask);
            var part = bytes.Slice(done, Math.Min(bytes.Length - done, (int)PageGeometry.PageSize - within));
            var index = at >> PageGeometry.PageShift;
            if (FaultHandler.FindOrAddPage(_kernel, null, file, index, 0, AllocationContext.Movable) is not { } pfn)
            {
                error = Errno.ENOSPC;
                break;
            }

            if (at > file.Size) FileCalls.ZeroTail(_kernel, file, file.Size, at);
            part.CopyTo(_kernel.Memory.Bytes.Of(pfn)[within..]);
            _kernel.Memory.MarkDirty(pfn);
            done += part.Length;
            file.Size = Math.Max(file.Size, at + (ulong)part.Length);
        }

        return done;
    }

    /// <summary>
    /// A device over <paramref name="frames"/> frames: of the machine's RAM (which it keeps), or of MMIO behind it.
    /// Null when RAM is out or not to be had in one piece.
    /// </summary>
    public Device? CreateDevice(
        string name, DeviceMapping mapping, ulong frames, bool isRam, bool hasClose, bool isWritable,
        bool remapsInParts = false)
    {
        using var turn = EnterTurn();
        if (isRam)
        {
            var order = frames <= 1 ? 0 : 64 - System.Numerics.BitOperations.LeadingZeroCount(frames - 1);
            if (order > PageGeometry.PudOrder || AllocateForDevice(order) is not { } first) return null;
            return AddDevice(name, mapping, first, frames, isRam, hasClose, isWritable, remapsInParts);
        }

        var start = new Pfn(_nextMmio);
        _nextMmio += PageGeometry.AlignUp(frames, 1UL << PageGeometry.PmdOrder) + (1UL << PageGeometry.PmdOrder);
        return AddDevice(name, mapping, start, frames, isRam, hasClose, isWritable, remapsInParts);
    }

    /// <summary>
    /// The driver gives the device up: it cannot be mapped any more, and its memory goes with the last mapping of it,
    /// page by page later where pins or vectors hold some. False: it was destroyed before.
    /// </summary>
    public bool DestroyDevice(Device device)
    {
        using var turn = EnterTurn();
        if (device.IsOrphan) return false;
        device.IsOrphan = true;
        _kernel.DropIfUnused(device);
        return true;
    }

    /// <summary>
    /// A vector over a device's pages with a plain reference to each, as a dma-buf holds the buffer that it was
    /// exported from: they outlive the device. Null for MMIO, which has no pages, and for a destroyed device. The
    /// caller puts and destroys it.
    /// </summary>
    public FrameVector? CreateVector(Device device)
    {
        if (!device.IsRam || CreateVector((long)device.Frames) is not { } vector) return null;
        using (EnterTurn())
        {
            if (!device.IsOrphan)
            {
                for (var i = 0UL; i < device.Frames; i++) _kernel.Memory.Frames.AddRefs(device.First + i, 1);
                var writer = new RunWriter(vector);
                for (var i = 0UL; i < device.Frames; i++) writer.Append((device.First + i).Value, 1, isLarge: false);
                writer.Finish();
                vector.IsPinned = false;
                vector.Hold();
                return vector;
            }
        }

        DestroyVector(vector);
        return null;
    }

    /// <summary>Single frames, each with a reference that the device holds.</summary>
    private Pfn? AllocateForDevice(int order)
    {
        if (_kernel.Memory.Normal.Take(order) is not { } first) return null;
        for (var i = 0UL; i < 1UL << order; i++)
        {
            var info = _kernel.Memory.Frames[first + i];
            if ((info.Flags & FrameFlags.Touched) != 0) _kernel.Memory.Bytes.Of(first + i).Clear();
            info.Clear();
            info.Flags = FrameFlags.Head | FrameFlags.Device | FrameFlags.Touched;
            _kernel.Memory.Frames.InitCount(first + i);
        }

        return first;
    }

    private Device AddDevice(
        string name, DeviceMapping mapping, Pfn first, ulong frames, bool isRam, bool hasClose, bool isWritable,
        bool remapsInParts)
    {
        var device = new Device(++_nextDevice, name, mapping, first, frames, isRam)
        {
            HasClose = hasClose,
            Writable = isWritable,
            RemapsInParts = remapsInParts,
        };
        if (mapping == DeviceMapping.P2PPages)
            for (var i = 0UL; i < frames && isRam; i++) _kernel.Memory.Frames[first + i].Flags |= FrameFlags.P2PDma;
        _kernel.Devices.Add(device);
        return device;
    }
}
