using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>The ioctls of a userfaultfd (fs/userfaultfd.c, mm/userfaultfd.c). Under the turn.</summary>
internal static class UffdCalls
{
    private const VmFlags Modes = VmFlags.UffdMissing | VmFlags.UffdWp;

    /// <summary>
    /// UFFDIO_REGISTER. -EINVAL for no mode, a bad range, a hole at its start and memory that cannot be registered;
    /// -EPERM where it may not be written; -EBUSY where another userfaultfd is.
    /// </summary>
    public static SyscallResult Register(Userfaultfd fd, ulong start, ulong length, UffdModes modes)
    {
        var space = fd.Space;
        if (modes == UffdModes.None || (modes & ~(UffdModes.Missing | UffdModes.WriteProtect)) != 0)
            return Errno.EINVAL;
        var flags = FlagsOf(modes);
        if (!IsValid(space, start, length, out var range)) return Errno.EINVAL;
        var areas = space.Vmas.Overlapping(range).ToList();
        if (areas.Count == 0) return Errno.EINVAL;
        if (!IsHugeAligned(areas[0], start)) return Errno.EINVAL;
        foreach (var vma in areas)
        {
            if (!CanRegister(vma, flags)) return Errno.EINVAL;
            if (!vma.Has(VmFlags.MayWrite)) return Errno.EPERM;
            if (range.End <= vma.End && !IsHugeAligned(vma, range.End)) return Errno.EINVAL;
            if (vma.Uffd is not null && vma.Uffd != fd) return Errno.EBUSY;
        }

        foreach (var area in areas)
        {
            if (area.Uffd == fd && area.Has(flags)) continue;
            var part = area.Range.Intersect(range);
            var vma = area;
            var error = VmaFlagChange.Apply(space, ref vma, part.Start, part.End, (vma.Flags & ~Modes) | flags, fd);
            if (error != Errno.None) return error;
        }

        return SyscallResult.Ok();
    }

    /// <summary>
    /// UFFDIO_UNREGISTER: write protection goes with the registration. -EINVAL over areas of another userfaultfd.
    /// </summary>
    public static SyscallResult Unregister(KernelState kernel, Userfaultfd fd, ulong start, ulong length)
    {
        var space = fd.Space;
        if (!IsValid(space, start, length, out var range)) return Errno.EINVAL;
        var areas = space.Vmas.Overlapping(range).ToList();
        if (areas.Count == 0) return Errno.EINVAL;
        if (!IsHugeAligned(areas[0], start)) return Errno.EINVAL;
        foreach (var vma in areas)
        {
            if (vma.Uffd is not null && vma.Uffd != fd) return Errno.EINVAL;
            if (!CanRegister(vma, vma.Flags & Modes)) return Errno.EINVAL;
        }

        foreach (var area in areas)
        {
            if (area.Uffd is null) continue;
            var part = area.Range.Intersect(range);
            var vma = area;
            if (vma.Has(VmFlags.UffdWp)) Protect(kernel, space, vma, part, isOn: false);
            var error = VmaFlagChange.Apply(space, ref vma, part.Start, part.End, vma.Flags & ~Modes, uffd: null);
            if (error != Errno.None) return error;
        }

        return SyscallResult.Ok();
    }

    /// <summary>UFFDIO_WRITEPROTECT. -ENOENT where nothing is registered for it; what came before is done.</summary>
    public static SyscallResult WriteProtect(KernelState kernel, Userfaultfd fd, ulong start, ulong length, bool isOn)
    {
        var space = fd.Space;
        if (!IsValid(space, start, length, out var range)) return Errno.EINVAL;
        var isPartial = false;
        foreach (var vma in space.Vmas.Overlapping(range).ToList())
        {
            if (!vma.Has(VmFlags.UffdWp)) return SyscallResult.Fail(Errno.ENOENT, isPartial);
            if (!Protect(kernel, space, vma, vma.Range.Intersect(range), isOn))
                return SyscallResult.Fail(Errno.ENOMEM, isPartial);
            isPartial = true;
        }

        return isPartial ? SyscallResult.Ok() : Errno.ENOENT;
    }

    /// <summary>
    /// UFFDIO_COPY of one page, and UFFDIO_ZEROPAGE when there is no <paramref name="content"/>. -ENOENT outside a
    /// registered area, -EEXIST over a page, -EFAULT behind a file's end.
    /// </summary>
    public static SyscallResult Fill(KernelState kernel, Userfaultfd fd, ulong address, ReadOnlySpan<byte> content)
    {
        var space = fd.Space;
        if (!IsValid(space, address, PageGeometry.PageSize, out _)) return Errno.EINVAL;
        if (space.Vmas.Find(address) is not { } vma) return Errno.ENOENT;
        var isShared = vma.Has(VmFlags.Shared);
        // uffd_lock_vma prepares before anybody asks whether the area is registered.
        if (!isShared) FaultHandler.PrepareAnonVma(kernel, space, vma);
        if (vma.Uffd is null) return Errno.ENOENT;
        if (vma.IsHugeTlb) return Errno.EINVAL;
        if (space.PageTable.Find(address) is { Exists: true, Order: > 0 } huge && space.PageTable[huge] != 0)
            return Errno.EEXIST;
        var slot = space.PageTable.Ensure(address, 0);
        if (!slot.Exists) return Errno.ENOMEM;
        if (isShared) return FillShared(kernel, space, vma, address, content, slot);
        var isBehindEnd = vma.File is { } file && vma.IndexOf(address) >= PageGeometry.PagesOf(file.Size);
        if (isBehindEnd) return Errno.EFAULT;
        if (!IsFillable(space.PageTable[slot])) return Errno.EEXIST;
        if (content.IsEmpty && kernel.UsesZeroPage)
        {
            // mfill_atomic_pte_zeropage alone takes a marker for something.
            if (space.PageTable[slot] != 0) return Errno.EEXIST;
            Mapping.MapSpecial(space, address, kernel.Memory.ZeroPage, Mapping.AccessBits(vma, false));
            return SyscallResult.Ok(PageGeometry.PageSize);
        }

        if (kernel.AllocatePage(space, address, AllocationContext.Movable, FrameFlags.Anon) is not { } pfn)
            return Errno.ENOMEM;
        content.CopyTo(kernel.Memory.Bytes.Of(pfn));
        Mapping.MapPage(kernel, space, vma, address, pfn,
            Pte.Anon | Pte.Exclusive | Pte.Dirty | kernel.SoftDirty | Mapping.AccessBits(vma, true));
        return SyscallResult.Ok(PageGeometry.PageSize);
    }

    private static SyscallResult FillShared(
        KernelState kernel, AddressSpace space, Vma vma, ulong address, ReadOnlySpan<byte> content, LeafSlot slot)
    {
        var file = vma.File!;
        var index = vma.IndexOf(address);
        if (index >= PageGeometry.PagesOf(file.Size)) return Errno.EFAULT;
        // The page goes into the file first, where one may be already.
        if (file.Lookup(index) is not null || file.Stored(index) is not null || !IsFillable(space.PageTable[slot]))
            return Errno.EEXIST;
        if (FaultHandler.FindOrAddPage(kernel, space, file, index, address, AllocationContext.Movable) is not { } pfn)
            return Errno.ENOMEM;
        content.CopyTo(kernel.Memory.Bytes.Of(pfn));
        kernel.Memory.Frames.AddRefs(pfn, 1);
        kernel.Memory.MarkDirty(pfn);
        Mapping.MapPage(kernel, space, vma, address, pfn, Pte.Dirty | kernel.SoftDirty | Mapping.AccessBits(vma, true));
        return SyscallResult.Ok(PageGeometry.PageSize);
    }

    /// <summary>pte_none_mostly: nothing, or a marker, guards included.</summary>
    private static bool IsFillable(ulong entry) => entry == 0 || (entry & Pte.Marker) != 0;

    /// <summary>
    /// uffd_wp_range: present entries lose their write permission until it is given back; empty ones stay as they are.
    /// </summary>
    private static bool Protect(KernelState kernel, AddressSpace space, Vma vma, AddressRange part, bool isOn)
    {
        if (!Mapping.SplitAt(kernel, space, part.Start) || !Mapping.SplitAt(kernel, space, part.End)) return false;
        var leaf = space.PageTable.Leaves(part);
        while (leaf.MoveNext())
        {
            ref var entry = ref leaf.Entry;
            if ((entry & Pte.Swap) != 0) entry = isOn ? entry | Pte.UffdWp : entry & ~Pte.UffdWp;
            if (Pte.IsMapped(entry))
            {
                if (isOn) entry = (entry | Pte.UffdWp) & ~Pte.Write;
                else if ((entry & Pte.UffdWp) != 0)
                {
                    entry &= ~Pte.UffdWp;
                    entry |= Mapping.AccessBits(vma, Mapping.MayStayWritable(kernel, vma, entry));
                }
            }
        }

        return true;
    }

    private static VmFlags FlagsOf(UffdModes modes) =>
        ((modes & UffdModes.Missing) != 0 ? VmFlags.UffdMissing : 0)
            | ((modes & UffdModes.WriteProtect) != 0 ? VmFlags.UffdWp : 0);

    /// <summary>
    /// vma_can_userfault, as of a kernel without page-table markers for write protection: that is for private anonymous
    /// memory only.
    /// </summary>
    private static bool CanRegister(Vma vma, VmFlags flags)
    {
        if (vma.Has(VmFlags.Droppable)) return false;
        if ((flags & VmFlags.UffdWp) != 0 && !vma.IsAnonymous) return false;
        return vma.IsAnonymous || vma.IsHugeTlb || vma.File is { Kind: FileKind.Shmem };
    }

    private static bool IsHugeAligned(Vma vma, ulong address) =>
        !vma.IsHugeTlb || PageGeometry.IsAligned(address, PageGeometry.PageSize << vma.HugeOrder);

    private static bool IsValid(AddressSpace space, ulong start, ulong length, out AddressRange range)
    {
        range = new AddressRange(start, start + length);
        return ((start | length) & ~PageGeometry.PageMask) == 0 && length != 0 && start >= PageGeometry.MmapMinAddress
            && start < space.TaskSize && length <= space.TaskSize - start;
    }
}
