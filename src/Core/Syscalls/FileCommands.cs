using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Kernel;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>Makes a memory file.</summary>
/// <param name="Name">Path as maps shows it.</param>
/// <param name="Kind">File system.</param>
/// <param name="Size">Bytes.</param>
/// <param name="HugeOrder">log2 of the frames of a page for hugetlbfs (9 or 18), 0 for the other kinds.</param>
/// <param name="DeviceNumber">"major:minor" in hex, as maps shows it; null for the default of the kind.</param>
/// <param name="Inode">Inode number, as maps shows it; 0 for the number of the file.</param>
/// <returns>The file's number; -EINVAL for a hugetlb size without a pool, -ENOSYS for secret memory before
/// 5.14, -ENOMEM when no table is left.</returns>
public readonly record struct CreateFileCall(
    string Name, FileKind Kind, ulong Size, int HugeOrder = 0, string? DeviceNumber = null, ulong Inode = 0)
    : ISyscall<CreateFileCall>
{
    /// <summary>Bytes that a file may have.</summary>
    public const ulong MaxBytes = FileCalls.MaxBytes;

    public SyscallResult Run(in Turn turn)
    {
        if (Size > FileCalls.LimitOf(Kind)) return Errno.EFBIG;
        var order = Kind == FileKind.HugeTlb ? HugeOrder : 0;
        if (Kind == FileKind.Secret && !turn.Kernel.Profile.HasSecretMemory) return Errno.ENOSYS;
        if (Kind == FileKind.HugeTlb && !turn.Kernel.HugePools.ContainsKey(order)) return Errno.EINVAL;
        if (turn.Kernel.CreateFile(Name, Kind, Size, order) is not { } file) return Errno.ENOMEM;
        if (DeviceNumber is not null) file.DeviceNumber = DeviceNumber;
        file.Inode = Inode != 0 ? Inode : (ulong)file.Id;
        return SyscallResult.Ok((ulong)file.Id);
    }

    public void Write(CommandWriter writer) =>
        writer.Add(Name).Add((int)Kind).Add(Size).Add(HugeOrder).Add(DeviceNumber).Add(Inode);

    public static CreateFileCall Read(ref CommandReader reader) => new(
        reader.Name(), (FileKind)reader.I32(), reader.U64(), reader.I32(), reader.Text(), reader.U64());
}

/// <summary>
/// fsync: dirty pages are written back and, in shared mappings, write-protected. -EINVAL for secret memory, which has
/// no fsync.
/// </summary>
public readonly record struct FsyncCall(FileId File) : ISyscall<FsyncCall>, IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        if (turn.Kernel.File(File) is { TracksDirty: true } file)
            TakenRanges.AddWriteBack(file, 0, PageGeometry.PagesOf(file.Size), taken);
    }

    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.File(File) is not { } file) return Errno.EBADF;
        if (!file.HasFsync) return Errno.EINVAL;
        if (file.TracksDirty) MsyncCall.Clean(turn.Kernel, file, 0, PageGeometry.PagesOf(file.Size));
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(File);

    public static FsyncCall Read(ref CommandReader reader) => new(reader.File());
}

/// <summary>
/// chmod: whether users who do not own the file may write it, which also decides whether mincore shows them its cache.
/// </summary>
public readonly record struct ChmodCall(FileId File, bool OthersMayWrite) : ISyscall<ChmodCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.File(File) is not { } file) return Errno.EBADF;
        file.OthersMayWrite = OthersMayWrite;
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(File).Add(OthersMayWrite);

    public static ChmodCall Read(ref CommandReader reader) => new(reader.File(), reader.Bool());
}

/// <summary>unlink: the file loses its name, and goes with its last mapping.</summary>
public readonly record struct UnlinkCall(FileId File) : ISyscall<UnlinkCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.File(File) is not { Unlinked: false } file) return Errno.ENOENT;
        file.Unlinked = true;
        turn.Kernel.DropIfUnused(file);
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(File);

    public static UnlinkCall Read(ref CommandReader reader) => new(reader.File());
}

/// <summary>
/// ftruncate to a size in bytes. -EFBIG for more than a file may have, -EINVAL for a negative size, for a part of a
/// huge page, and for secret memory that has a size already (mm/secretmem.c: secretmem_setattr).
/// </summary>
public readonly partial record struct TruncateCall(FileId File, ulong Size) : ISyscall<TruncateCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.File(File) is not { } file) return Errno.EBADF;
        if (Size > long.MaxValue) return Errno.EINVAL;
        var isWhole = PageGeometry.IsAligned(Size, PageGeometry.PageSize << file.Order);
        if (file.Kind == FileKind.HugeTlb && !isWhole) return Errno.EINVAL;
        if (file is { Kind: FileKind.Secret, Size: > 0 }) return Errno.EINVAL;
        if (Size > FileCalls.LimitOf(file.Kind)) return Errno.EFBIG;
        FileCalls.Truncate(turn.Kernel, file, Size);
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(File).Add(Size);

    public static TruncateCall Read(ref CommandReader reader) => new(reader.File(), reader.U64());
}

/// <summary>fallocate(PUNCH_HOLE | KEEP_SIZE) of a range in bytes.</summary>
/// <remarks>
/// -EINVAL for an empty range and negative numbers, -EFBIG for one that ends behind what a file may have, -EOPNOTSUPP
/// for secret memory, -EPERM for a sealed file.
/// </remarks>
public readonly partial record struct PunchHoleCall(FileId File, ulong Offset, ulong Length) : ISyscall<PunchHoleCall>
{
    public SyscallResult Run(in Turn turn)
    {
        // vfs_fallocate
        if (Length == 0 || Length > long.MaxValue || Offset > long.MaxValue) return Errno.EINVAL;
        if (turn.Kernel.File(File) is not { } file) return Errno.EBADF;
        // A hole needs no room: but for ext4, whose blocks end, the range may reach as far as offsets do.
        var isOnDisk = file.Kind is Backing.FileKind.Disk or Backing.FileKind.FsDax;
        if (Offset + Length > (isOnDisk ? FileCalls.LimitOf(file.Kind) : long.MaxValue)) return Errno.EFBIG;
        if (file.Kind == FileKind.Secret) return Errno.EOPNOTSUPP;
        if (file.WriteSealed) return Errno.EPERM;
        FileCalls.PunchHole(turn.Kernel, file, Offset, Length);
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(File).Add(Offset).Add(Length);

    public static PunchHoleCall Read(ref CommandReader reader) => new(reader.File(), reader.U64(), reader.U64());
}

/// <summary>
/// F_SEAL_WRITE: -EBUSY while a shared writable mapping exists, or while a page has a reference that neither a mapping
/// nor the cache accounts for (mm/memfd.c: memfd_wait_for_pins). -EINVAL for a kind of file that has no seals.
/// </summary>
public readonly record struct SealWriteCall(FileId File) : ISyscall<SealWriteCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.File(File) is not { } file) return Errno.EBADF;
        if (file.Kind is FileKind.Disk or FileKind.FsDax or FileKind.Secret) return Errno.EINVAL;
        if (file.WriteSealed) return SyscallResult.Ok();
        foreach (var vma in file.Mappings.Over<Vma>(0, ulong.MaxValue))
            if (vma.Has(VmFlags.Shared | VmFlags.MayWrite)) return Errno.EBUSY;
        var frames = turn.Kernel.Memory.Frames;
        foreach (var (_, head) in file.CachedFolios())
            if (frames.RefCount(head) != frames[head].MapCount + 1) return Errno.EBUSY;
        file.WriteSealed = true;
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(File);

    public static SealWriteCall Read(ref CommandReader reader) => new(reader.File());
}
