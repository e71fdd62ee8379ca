using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>
/// remap_file_pages, as Linux emulates it since 4.0: other pages of the same file are mapped in place of a part of a
/// shared mapping.
/// </summary>
/// <param name="Space">The address space.</param>
/// <param name="Start">Address in bytes; rounded down to a page.</param>
/// <param name="Size">Bytes; rounded down to whole pages.</param>
/// <param name="Prot">0: the mapping keeps its rights.</param>
/// <param name="PageOffset">First page of the file.</param>
/// <param name="Flags">MAP_NONBLOCK leaves the pages out until they are touched; every other bit is ignored.</param>
/// <remarks>
/// -EINVAL for rights, an empty or wrapping range, memory that is not shared, and a range over a hole, another file or
/// other flags; -EPERM over a sealed area. Source: mm/mmap.c: remap_file_pages; Semantics 4.9.
/// </remarks>
public readonly record struct RemapFilePagesCall(
    SpaceId Space, ulong Start, ulong Size, Prot Prot, ulong PageOffset, MapFlags Flags)
    : ISyscall<RemapFilePagesCall>, IInvalidating
{
    private AddressRange Range => new(Start & PageGeometry.PageMask, (Start & PageGeometry.PageMask) + WholeSize);

    private ulong WholeSize => Size & PageGeometry.PageMask;

    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.Space(Space) is not { Exited: false } space) return Errno.ESRCH;
        if (Check(space) is not { } vma) return Errno.EINVAL;
        var locked = vma.Has(VmFlags.Locked) ? MapFlags.Locked : 0;
        var result = MmapCall.Run(turn.Kernel, space, new MmapRequest
        {
            Address = Range.Start,
            Length = WholeSize,
            Prot = (Prot)(vma.Flags & VmFlags.AccessMask),
            Flags = MapFlags.Shared | MapFlags.Fixed | MapFlags.Populate | (Flags & MapFlags.NonBlock) | locked,
            File = vma.File,
            Device = vma.Device,
            Opening = vma.Opening,
            PageOffset = PageOffset,
        });
        if (result.Rest is { } rest) return SyscallResult.Wait(rest with { Value = 0 });
        return result.IsOk ? SyscallResult.Ok() : result;
    }

    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        var space = turn.Kernel.Space(Space);
        if (Check(space) is not null) TakenRanges.AddMapped(space, Range, TakeCause.Mmap, taken);
    }

    public void Write(CommandWriter writer) => writer.Add(Space).Add(Start).Add(Size).Add((uint)Prot).Add(PageOffset)
        .Add((uint)Flags);

    public static RemapFilePagesCall Read(ref CommandReader reader) => new(
        reader.Space(), reader.U64(), reader.U64(), (Prot)reader.U32(), reader.U64(), (MapFlags)reader.U32());

    /// <summary>The first area of the range; null where the call is refused.</summary>
    private Vma? Check(AddressSpace space)
    {
        if (Prot != 0 || Range.End <= Range.Start) return null;
        if (PageOffset + (WholeSize >> PageGeometry.PageShift) < PageOffset) return null;
        if (space.Vmas.Find(Range.Start) is not { } first || !first.Has(VmFlags.Shared)) return null;
        // Every area of the range maps the same file with the same flags, without a hole.
        var end = first.End;
        foreach (var vma in space.Vmas.Overlapping(Range))
        {
            if (vma == first) continue;
            if (vma.Start != end || vma.Flags != first.Flags) return null;
            if (!ReferenceEquals(vma.File, first.File) || vma.Device != first.Device) return null;
            end = vma.End;
        }

        return end >= Range.End ? first : null;
    }
}
