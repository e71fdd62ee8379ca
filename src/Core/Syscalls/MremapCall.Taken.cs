using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

public readonly partial record struct MremapCall : IInvalidating, IMemoryMapping
{
    /// <summary>The new place; in the old place the part that was added.</summary>
    public AddressRange MappedAt(ulong value)
    {
        var from = value == Address ? Math.Min(OldLength, NewLength) & PageGeometry.PageMask : 0;
        return new AddressRange(value + from, PageGeometry.AlignUp(value + NewLength, PageGeometry.PageSize));
    }

    /// <summary>The old range where it moves or shrinks, and the areas at a fixed target.</summary>
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        var space = turn.Kernel.Space(Space);
        if ((Flags & ~MremapFlags.Known) != 0 || !IsPageAligned(Address)) return;
        var oldLength = PageGeometry.AlignUp(OldLength, PageGeometry.PageSize);
        var newLength = PageGeometry.AlignUp(NewLength, PageGeometry.PageSize);
        var request = new Request(Address, oldLength, newLength, Flags, NewAddress);
        if (CheckArguments(space, request) != Errno.None) return;
        if (space.Vmas.Find(Address) is not { } vma || vma.Has(VmFlags.Sealed)) return;
        if (turn.Kernel.Profile.MovesSeveralAreas && request.IsFixed && oldLength == newLength)
        {
            AddSeveral(space, request, taken);
            return;
        }

        if (RoundToHugePages(vma, ref request) != Errno.None) return;
        (oldLength, newLength) = (request.OldLength, request.NewLength);
        if (!request.IsFixed && !request.KeepsOld)
        {
            if (newLength == oldLength) return;
            if (newLength < oldLength)
            {
                var tail = TakenRanges.Aligned(space.TaskSize, Address + newLength, oldLength - newLength);
                TakenRanges.AddMapped(space, tail, TakeCause.Mremap, taken);
                return;
            }
        }

        if (CheckVma(space, vma, request) != Errno.None) return;
        var growsInPlace = request.Old.End == vma.End && CanGrow(space, vma, newLength - oldLength);
        if (!request.IsFixed && !request.KeepsOld && (growsInPlace || !request.MayMove)) return;
        AddMove(space, request, taken);
    }

    private static void AddMove(AddressSpace space, Request request, ICollection<TakenRange> taken)
    {
        var target = new AddressRange(request.NewAddress, request.NewAddress + request.NewLength);
        if (request.IsFixed && space.Vmas.Overlapping(target).Exists(vma => vma.Has(VmFlags.Sealed))) return;
        TakenRanges.AddMapped(space, request.Old, TakeCause.Mremap, taken);
        if (request.IsFixed) TakenRanges.AddMapped(space, target, TakeCause.Mremap, taken);
    }

    /// <summary>Every area of the range moves, until one is refused.</summary>
    private static void AddSeveral(AddressSpace space, Request request, ICollection<TakenRange> taken)
    {
        foreach (var vma in space.Vmas.Overlapping(request.Old))
        {
            var part = vma.Range.Intersect(request.Old);
            var move = request with
            {
                Address = part.Start,
                OldLength = part.Length,
                NewLength = part.Length,
                NewAddress = request.NewAddress + (part.Start - request.Address),
            };
            if (vma.Has(VmFlags.Sealed) || RoundToHugePages(vma, ref move) != Errno.None) return;
            if (CheckVma(space, vma, move) != Errno.None) return;
            var isWhole = vma.Start >= request.Address && vma.End <= request.Old.End;
            if ((vma.Device is not null || vma.Uffd is not null) && !isWhole) return;
            AddMove(space, move, taken);
        }
    }
}
