using System.Runtime.CompilerServices;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Pinning;

/// <summary>
/// get_vaddr_frames, by era (Semantics 2.3 to 2.6; mm/frame_vector.c, later
/// drivers/media/common/videobuf2/frame_vector.c).
/// </summary>
internal static class VaddrFrames
{
    /// <summary>The era's helper looks at areas before anything else, and so holds the turn from the start.</summary>
    public static bool NeedsTurn(KernelProfile profile) => profile.Era <= HelperEra.A2;

    /// <summary>
    /// Eras B to D: a range is pinned by the fast call. Before 6.2 a wrapped range makes the pin answer 0, which the
    /// helper turns into -EFAULT (Semantics 0).
    /// </summary>
    public static GupPlan Plan(KernelState kernel, ulong start, long count, GupFlags asked) =>
        GupCalls.Fast(
            kernel, start, count,
            FlagsOf(kernel.Profile.Era, asked) | (kernel.Profile.HelperPins ? GupFlags.Pin : GupFlags.Get),
            isOnly: false);

    /// <summary>Era A: decides by the first area. Under the turn; <paramref name="vector"/> is empty.</summary>
    public static GupPlan PlanByArea(
        KernelState kernel, AddressSpace space, ulong start, long count, GupFlags asked, FrameVector vector)
    {
        if (space.Vmas.Find(start) is not { } vma) return GupPlan.Done(Errno.EFAULT, StopReason.Hole);
        if (vma.File is { Kind: Backing.FileKind.FsDax })
            return GupPlan.Done(Errno.EOPNOTSUPP, StopReason.DirectAccess);
        if (vma.HasAny(VmFlags.Io | VmFlags.PfnMap))
        {
            vector.GotRef = false;
            vector.IsPfns = true;
            var followed = FollowPfns(space, start, count, vector, out var reason);
            return GupPlan.Done(followed, reason);
        }

        vector.GotRef = true;
        vector.IsPfns = false;
        vector.IsPinned = kernel.Profile.HelperPins;
        var flags = (asked & (GupFlags.Write | GupFlags.Force)) | GupFlags.Unlockable | GupFlags.Touch
            | (kernel.Profile.HelperPins ? GupFlags.Pin : GupFlags.Get);
        // get_user_pages_locked: the helper holds the lock and lets it go when a fault wants that.
        return new GupPlan(default, StopReason.None, true, GupPath.Locked, start, count, flags);
    }

    /// <summary>
    /// Turns the pin's answer into the helper's and sets the vector's state. Under the turn for era B.
    /// </summary>
    public static GupResult Complete(
        KernelState kernel, in PinRequest request, FrameVector vector, GupResult pinned, ref StopReason reason)
    {
        if (request.Count <= 0) return GupResult.Of(0);
        var era = kernel.Profile.Era;
        if (era <= HelperEra.A2)
        {
            if (pinned.Pages == 0 && pinned.Error == Errno.None) return Errno.EFAULT;
            // On an error nr_frames keeps its earlier value, 0 in correct use.
            return pinned;
        }

        if (era == HelperEra.B && pinned.Pages == 0)
            return FollowAfterPin(kernel, request, vector, pinned, ref reason);
        vector.GotRef = true;
        vector.IsPfns = false;
        if (pinned.Pages > 0) return pinned;
        vector.Reset();
        return pinned.Error == Errno.None ? Errno.EFAULT : pinned;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static GupResult FollowAfterPin(
        KernelState kernel, in PinRequest request, FrameVector vector, GupResult pinned, ref StopReason reason)
    {
        vector.GotRef = false;
        vector.IsPfns = true;
        var count = Math.Min(request.Count, vector.Allocated);
        var followed = FollowPfns(
            kernel.Space(request.Space), request.Start, count, vector, out var followReason);
        if (followed.Pages > 0)
        {
            reason = followReason;
            return followed;
        }

        // follow_pfn's -EINVAL says nothing about normal memory; later kernels answer what the pin had said.
        var hides = followed.Error == Errno.EINVAL && !kernel.Profile.PfnErrorHidesPinError;
        if (hides) return pinned.Error == Errno.None ? Errno.EFAULT : pinned;
        reason = followReason;
        return followed;
    }

    /// <summary>
    /// The follow_pfn loop over adjoining VM_IO and VM_PFNMAP areas: takes no reference and faults nothing in.
    /// </summary>
    private static GupResult FollowPfns(
        AddressSpace space, ulong start, long count, FrameVector vector, out StopReason reason)
    {
        var writer = new RunWriter(vector);
        var error = Errno.None;
        var vma = space.Vmas.Find(start);
        reason = vma is null ? StopReason.Hole : StopReason.None;
        while (vma is not null)
        {
            while (writer.Frames < count && start + PageGeometry.PageSize <= vma.End)
            {
                var slot = space.PageTable.Find(start);
                var entry = slot.Exists ? space.PageTable[slot] : 0;
                var canFollow = vma.HasAny(VmFlags.Io | VmFlags.PfnMap) && Pte.IsMapped(entry);
                if (!canFollow)
                {
                    error = Errno.EINVAL;
                    reason = vma.HasAny(VmFlags.Io | VmFlags.PfnMap) ? StopReason.NotPresent : StopReason.MappingClass;
                    break;
                }

                var offset = slot.Order == 0 ? 0 : (start >> PageGeometry.PageShift) & ((1UL << slot.Order) - 1);
                writer.Append(Pte.PfnOf(entry).Value + offset, 1, isLarge: false);
                start += PageGeometry.PageSize;
            }

            if (error != Errno.None || writer.Frames >= count) break;
            reason = StopReason.MappingClass;
            // An unaligned start leaves a tail that is not wholly inside.
            if (start < vma.End) break;
            vma = space.Vmas.Find(start);
            if (vma is null) reason = StopReason.Hole;
            else if (!vma.HasAny(VmFlags.Io | VmFlags.PfnMap)) break;
        }

        writer.Finish();
        if (vector.Count > 0) return GupResult.Of(vector.Count);
        return error != Errno.None ? error : Errno.EFAULT;
    }

    private static GupFlags FlagsOf(HelperEra era, GupFlags asked) => era switch
    {
        HelperEra.B or HelperEra.C => GupFlags.LongTerm | GupFlags.Force | GupFlags.Write,
        HelperEra.D => GupFlags.LongTerm | (asked & GupFlags.Write),
        _ => asked & (GupFlags.Write | GupFlags.Force),
    };
}
