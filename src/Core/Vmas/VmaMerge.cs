using FramePin.Core.Abi;
using FramePin.Core.Addressing;

namespace FramePin.Core.Vmas;

/// <summary>Splits and merges VMAs (mm/vma.c; Semantics 4.4). Under the turn.</summary>
internal static class VmaMerge
{
    /// <summary>
    /// Cuts <paramref name="vma"/> at <paramref name="address"/> and returns the upper part. -ENOMEM at the map limit,
    /// -EINVAL when the mapping refuses (vm_ops->may_split).
    /// </summary>
    /// <param name="space">Where.</param>
    /// <param name="vma">The area.</param>
    /// <param name="address">Where to cut, inside the area.</param>
    /// <param name="upper">The upper part; the area itself on an error.</param>
    /// <param name="checksLimit">False for munmap, which decides itself whether one more area is too many.</param>
    public static Errno Split(AddressSpace space, Vma vma, ulong address, out Vma upper, bool checksLimit = true)
    {
        upper = vma;
        if (vma.NeverSplit) return Errno.EINVAL;
        if (vma.IsHugeTlb && !PageGeometry.IsAligned(address, PageGeometry.PageSize << vma.HugeOrder))
            return Errno.EINVAL;
        if (checksLimit && space.MapCount >= PageGeometry.MaxMapCount) return Errno.ENOMEM;
        // vma_adjust_trans_huge: no huge leaf reaches over the border of two areas.
        if (!space.CutLeaf(address)) return Errno.ENOMEM;
        upper = vma.Slice(address, vma.End);
        vma.End = address;
        space.Link(upper);
        return Errno.None;
    }

    /// <summary>
    /// Puts a new area into the tree, joined with its neighbours where the kernel would join it. Returns the area that
    /// covers it now.
    /// </summary>
    public static Vma InsertOrMerge(AddressSpace space, Vma fresh)
    {
        var before = space.Vmas.Before(fresh.Start);
        var after = space.Vmas.FindFrom(fresh.Start);
        var left = before is not null && before.End == fresh.Start && CanJoin(before, fresh) ? before : null;
        var right = after is not null && after.Start == fresh.End && CanJoin(fresh, after) ? after : null;
        if (left is not null && right is not null && !CompatibleAnon(left, right)) right = null;
        return Join(space, left, fresh, right, inTree: false);
    }

    /// <summary>
    /// After <paramref name="vma"/>'s flags changed: joins it with its neighbours where that is possible now. Returns
    /// the area that covers it.
    /// </summary>
    public static Vma MergeChanged(AddressSpace space, Vma vma)
    {
        var before = space.Vmas.Before(vma.Start);
        var after = space.Vmas.FindFrom(vma.End);
        var left = before is not null && before.End == vma.Start && CanJoin(before, vma) ? before : null;
        var right = after is not null && after.Start == vma.End && CanJoin(vma, after) ? after : null;
        if (left is not null && right is not null && !CompatibleAnon(left, right)) right = null;
        return Join(space, left, vma, right, inTree: true);
    }

    /// <summary>
    /// True when two areas that touch could be one, but for their addresses (is_mergeable_vma and its like).
    /// </summary>
    public static bool CanJoin(Vma lower, Vma upper) =>
        ((lower.Flags ^ upper.Flags) & ~VmFlags.IgnoreMerge) == 0
        && !lower.HasAny(VmFlags.Special) && !upper.HasAny(VmFlags.Special)
        && ReferenceEquals(lower.File, upper.File) && ReferenceEquals(lower.Device, upper.Device)
        && lower.Opening == upper.Opening && lower.SpecialName == upper.SpecialName
        && ReferenceEquals(lower.Uffd, upper.Uffd)
        && !lower.HasClose && !upper.HasClose
        && lower.PageOffset + lower.Pages == upper.PageOffset
        && CompatibleAnon(lower, upper);

    /// <summary>
    /// The anon_vma that a first fault in <paramref name="vma"/> may share with a neighbour (find_mergeable_anon_vma);
    /// null for none.
    /// </summary>
    public static AnonVma? Reusable(AddressSpace space, Vma vma)
    {
        if (space.Vmas.FindFrom(vma.End) is { } after && after.Start == vma.End && Reuses(after, vma, after))
            return after.AnonVma;
        if (space.Vmas.Before(vma.Start) is { } before && before.End == vma.Start && Reuses(before, before, vma))
            return before.AnonVma;
        return null;
    }

    private static bool Reuses(Vma owner, Vma lower, Vma upper)
    {
        const VmFlags mayDiffer = VmFlags.AccessMask | VmFlags.IgnoreMerge;
        return owner.AnonVma is not null && !owner.HasForkedAnon
            && ReferenceEquals(lower.File, upper.File) && ReferenceEquals(lower.Device, upper.Device)
            && lower.Opening == upper.Opening
            && ((lower.Flags ^ upper.Flags) & ~mayDiffer) == 0
            && lower.PageOffset + lower.Pages == upper.PageOffset;
    }

    private static bool CompatibleAnon(Vma a, Vma b)
    {
        if (ReferenceEquals(a.AnonVma, b.AnonVma)) return true;
        if (a.AnonVma is not null && b.AnonVma is not null) return false;
        return !(a.AnonVma is null ? b : a).HasForkedAnon;
    }

    private static Vma Join(AddressSpace space, Vma? left, Vma middle, Vma? right, bool inTree)
    {
        if (left is null && right is null)
        {
            if (!inTree) space.Link(middle);
            return middle;
        }

        var survivor = left ?? right!;
        var anon = left is { AnonVma: not null } ? left : middle.AnonVma is not null ? middle : right ?? middle;
        survivor.TakeAnon(anon);
        if (inTree) space.Unlink(middle);
        if (left is not null && right is not null)
        {
            space.Unlink(right);
            left.End = right.End;
        }
        else if (left is not null)
        {
            left.End = middle.End;
        }
        else
        {
            right!.PageOffset = middle.PageOffset;
            right.Start = middle.Start;
        }

        // Guard regions stick: a merged area has them if a part had.
        survivor.Flags |= ((left?.Flags ?? 0) | middle.Flags | (right?.Flags ?? 0)) & VmFlags.MaybeGuard;
        // A new part makes all of it count as stored to; joining areas that were there does not (VM_SOFTDIRTY).
        if (!inTree) survivor.Flags |= middle.Flags & VmFlags.SoftDirty;
        return survivor;
    }
}
