using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>Arguments of mmap. Address, length and offset in bytes.</summary>
internal sealed record MmapRequest
{
    public ulong Address { get; init; }

    public required ulong Length { get; init; }

    public required Prot Prot { get; init; }

    public required MapFlags Flags { get; init; }

    public MemoryFile? File { get; init; }

    public Device? Device { get; init; }

    /// <summary>The descriptor was opened for reading (FMODE_READ).</summary>
    public bool OpenedForRead { get; init; } = true;

    /// <summary>The descriptor was opened for writing (FMODE_WRITE).</summary>
    public bool OpenedForWrite { get; init; } = true;

    /// <summary>
    /// Number of the opening of the file (struct file), the caller's own; areas of two openings do not merge.
    /// </summary>
    public int Opening { get; init; }

    public ulong Offset { get; init; }
}

/// <summary>
/// mmap (mm/mmap.c: do_mmap; mm/vma.c: mmap_region; Semantics 4.2). Checks stand in the kernel's order.
/// </summary>
public readonly partial record struct MmapCall(
    SpaceId Space, ulong Address, ulong Length, Prot Prot, MapFlags Flags) : ISyscall<MmapCall>
{
    /// <summary>The file to map; none for anonymous memory and for a device.</summary>
    public FileId File { get; init; }

    /// <summary>The device to map.</summary>
    public DeviceId Device { get; init; }

    /// <summary>The descriptor was not opened for reading (FMODE_READ).</summary>
    public bool IsWriteOnly { get; init; }

    /// <summary>The descriptor was not opened for writing (FMODE_WRITE).</summary>
    public bool IsReadOnly { get; init; }

    /// <summary>Number of the opening (struct file), the caller's own: areas of two openings do not merge.</summary>
    public int Opening { get; init; }

    /// <summary>Offset in bytes.</summary>
    public ulong Offset { get; init; }

    public SyscallResult Run(in Turn turn)
    {
        var kernel = turn.Kernel;
        if (kernel.Space(Space) is not { Exited: false } space) return Errno.ESRCH;
        var (file, device) = (kernel.File(File), kernel.Device(Device));
        if ((file is null && File != FileId.None) || (device is null && Device != DeviceId.None)) return Errno.EBADF;
        return Run(kernel, space, RequestOf(file, device));
    }

    private MmapRequest RequestOf(MemoryFile? file, Device? device) => new()
    {
        Address = Address,
        Length = Length,
        Prot = Prot,
        Flags = Flags,
        File = file,
        Device = device,
        OpenedForRead = !IsWriteOnly,
        OpenedForWrite = !IsReadOnly,
        Opening = Opening,
        Offset = Offset,
    };

    public void Write(CommandWriter writer) => writer.Add(Space).Add(Address).Add(Length).Add((uint)Prot)
        .Add((uint)Flags).Add(File).Add(Device).Add(IsWriteOnly).Add(IsReadOnly).Add(Opening).Add(Offset);

    public static MmapCall Read(ref CommandReader reader) =>
        new(reader.Space(), reader.U64(), reader.U64(), (Prot)reader.U32(), (MapFlags)reader.U32())
        {
            File = reader.File(),
            Device = reader.Device(),
            IsWriteOnly = reader.Bool(),
            IsReadOnly = reader.Bool(),
            Opening = reader.I32(),
            Offset = reader.U64(),
        };

    internal static SyscallResult Run(KernelState kernel, AddressSpace space, MmapRequest request)
    {
        if (!PageGeometry.IsAligned(request.Offset, PageGeometry.PageSize)) return Errno.EINVAL;
        var hugeOrder = 0;
        if ((request.Flags & MapFlags.HugeTlb) != 0)
        {
            var error = PrepareHuge(kernel, ref request, out hugeOrder);
            if (error != Errno.None) return error;
        }
        else if (request.File is { Kind: FileKind.HugeTlb } file)
        {
            hugeOrder = file.Order;
        }

        if (request.Length == 0) return Errno.EINVAL;
        var flags = request.Flags;
        if ((flags & MapFlags.FixedNoReplace) != 0) flags |= MapFlags.Fixed;
        var address = request.Address;
        if ((flags & MapFlags.Fixed) == 0 && address != 0)
            address = Math.Max(address & PageGeometry.PageMask, PageGeometry.MmapMinAddress);
        var length = PageGeometry.AlignUp(request.Length, PageGeometry.PageSize << hugeOrder);
        if (length == 0 || length < request.Length) return Errno.ENOMEM;
        var pageOffset = request.Offset >> PageGeometry.PageShift;
        if (request.Offset + length < request.Offset) return Errno.EOVERFLOW;
        if (space.MapCount > PageGeometry.MaxMapCount) return Errno.ENOMEM;

        var vmFlags = FlagsOf(kernel, space, request.Prot, flags);
        var placed = Place(kernel, space, request, address, length, flags, hugeOrder);
        if (!placed.IsOk) return placed;
        address = placed.Value;
        var range = new AddressRange(address, address + length);
        if ((flags & MapFlags.FixedNoReplace) != 0 && space.Vmas.Intersects(range)) return Errno.EEXIST;
        var lockError = MlockCalls.CheckNewMapping(space, vmFlags, length, (flags & MapFlags.Locked) != 0);
        if (lockError != Errno.None) return lockError;

        var kindError = request.File is not null || request.Device is not null
            ? ApplyFile(request, flags, ref vmFlags)
            : ApplyAnonymous(kernel, flags, ref vmFlags);
        if (kindError != Errno.None) return kindError;
        return MapRegion(kernel, space, request, range, flags, vmFlags, pageOffset, hugeOrder);
    }

    /// <summary>calc_vm_prot_bits and calc_vm_flag_bits.</summary>
    private static VmFlags FlagsOf(KernelState kernel, AddressSpace space, Prot prot, MapFlags flags)
    {
        var result = (VmFlags)(prot & Prot.AccessMask) | VmFlags.MayRead | VmFlags.MayWrite | VmFlags.MayExec;
        if ((flags & MapFlags.GrowsDown) != 0) result |= VmFlags.GrowsDown;
        if ((flags & MapFlags.Locked) != 0) result |= VmFlags.Locked;
        if ((flags & MapFlags.Stack) != 0 && kernel.Profile.StacksRefuseHugePages) result |= VmFlags.NoHugePage;
        if (space.LocksFuture) result |= VmFlags.Locked;
        if (space.LocksFuture && space.LocksFutureOnFault) result |= VmFlags.LockOnFault;
        return result;
    }

    private static SyscallResult Place(
        KernelState kernel, AddressSpace space, MmapRequest request, ulong address, ulong length, MapFlags flags,
        int hugeOrder)
    {
        if (length > PageGeometry.TaskSize) return Errno.ENOMEM;
        if ((flags & MapFlags.Fixed) == 0)
        {
            var file = request.File is { Kind: FileKind.HugeTlb } ? null : request.File;
            return Placement.Choose(
                space, kernel.Profile, address, length, file, request.Offset, hugeOrder,
                isMove: request.Device is not null || (hugeOrder == 0 && IsSharedAnonymous(request)));
        }

        if (address > PageGeometry.TaskSize - length) return Errno.ENOMEM;
        if (!PageGeometry.IsAligned(address, PageGeometry.PageSize << hugeOrder)) return Errno.EINVAL;
        if (address < PageGeometry.MmapMinAddress && !space.Task.CanMapLow) return Errno.EPERM;
        return SyscallResult.Ok(address);
    }

    private static bool IsSharedAnonymous(MmapRequest request) =>
        request.File is null && (request.Flags & MapFlags.TypeMask) == MapFlags.Shared;

    private static Errno ApplyFile(MmapRequest request, MapFlags flags, ref VmFlags vmFlags)
    {
        var type = flags & MapFlags.TypeMask;
        if (type is MapFlags.Shared or MapFlags.SharedValidate)
        {
            if (type == MapFlags.SharedValidate && (flags & ~(MapFlags.LegacyMask | MapFlags.FixedNoReplace)) != 0)
                return Errno.EOPNOTSUPP;
            var wantsWrite = (request.Prot & Prot.Write) != 0;
            if (wantsWrite && !request.OpenedForWrite) return Errno.EACCES;
            vmFlags |= VmFlags.Shared | VmFlags.MayShare;
            if (!request.OpenedForWrite) vmFlags &= ~(VmFlags.MayWrite | VmFlags.Shared);
        }
        else if (type != MapFlags.Private)
        {
            return Errno.EINVAL;
        }

        if (!request.OpenedForRead) return Errno.EACCES;
        if (request.File is { Kind: FileKind.Secret })
        {
            // Its mount is noexec; its own mmap takes shared mappings only and locks them.
            if ((vmFlags & VmFlags.Exec) != 0) return Errno.EPERM;
            vmFlags &= ~VmFlags.MayExec;
        }

        if ((vmFlags & VmFlags.GrowsDown) != 0) return Errno.EINVAL;
        if (request.File is { WriteSealed: true } && (vmFlags & VmFlags.Shared) != 0)
        {
            if ((request.Prot & Prot.Write) != 0) return Errno.EPERM;
            vmFlags &= ~VmFlags.MayWrite;
        }

        return Errno.None;
    }

    private static Errno ApplyAnonymous(KernelState kernel, MapFlags flags, ref VmFlags vmFlags)
    {
        switch (flags & MapFlags.TypeMask)
        {
            case MapFlags.Shared:
                if ((vmFlags & VmFlags.GrowsDown) != 0) return Errno.EINVAL;
                vmFlags |= VmFlags.Shared | VmFlags.MayShare;
                return Errno.None;
            case MapFlags.Droppable when kernel.Profile.HasDroppable:
                if ((vmFlags & VmFlags.GrowsDown) != 0 || (flags & (MapFlags.Locked | MapFlags.HugeTlb)) != 0)
                    return Errno.EINVAL;
                vmFlags |= VmFlags.Droppable | VmFlags.NoReserve | VmFlags.WipeOnFork | VmFlags.DontDump;
                return Errno.None;
            case MapFlags.Private:
                return Errno.None;
            default:
                return Errno.EINVAL;
        }
    }

    private static SyscallResult MapRegion(
        KernelState kernel, AddressSpace space, MmapRequest request, AddressRange range, MapFlags flags,
        VmFlags vmFlags,
        ulong pageOffset, int hugeOrder)
    {
        if (space.DeniesWriteExec(vmFlags, vmFlags)) return Errno.EACCES;
        var gathered = MunmapCall.Gather(space, range);
        if (gathered != Errno.None) return gathered;
        var limit = Limits.CheckExpansion(space, vmFlags, range.Length, replaced: Limits.MappedBytes(space, range));
        if (limit != Errno.None) return limit;
        if ((flags & MapFlags.NoReserve) != 0) vmFlags |= VmFlags.NoReserve;
        var file = request.File;
        if (hugeOrder > 0) vmFlags |= VmFlags.HugeTlb | VmFlags.DontExpand;
        else if ((vmFlags & (VmFlags.NoReserve | VmFlags.Shared | VmFlags.Write)) == VmFlags.Write)
            vmFlags |= VmFlags.Account;
        var isPartial = false;
        if (space.Vmas.Intersects(range))
        {
            isPartial = true;
            var unmapped = MunmapCall.Unmap(kernel, space, range);
            if (unmapped != Errno.None) return Dropped(kernel, file, unmapped);
        }

        if (hugeOrder > 0)
        {
            // The former mapping of the range has given its huge pages back by now.
            var reserve = ReserveHuge(kernel, file!, range, pageOffset, vmFlags);
            if (reserve != Errno.None) return SyscallResult.Fail(Dropped(kernel, file, reserve), isPartial);
        }

        // secretmem_mmap refuses when the old areas are gone already.
        if (file is { Kind: FileKind.Secret })
        {
            var secret = (vmFlags & VmFlags.MayShare) == 0
                ? Errno.EINVAL
                : MlockCalls.CheckNewMapping(space, vmFlags | VmFlags.Locked, range.Length, isAsked: false);
            if (secret != Errno.None) return SyscallResult.Fail(secret, isPartial);
        }

        var isSharedAnonymous = file is null && request.Device is null && (vmFlags & VmFlags.Shared) != 0;
        if (isSharedAnonymous)
        {
            file = kernel.CreateFile("/dev/zero (deleted)", FileKind.Shmem, range.Length);
            if (file is null) return SyscallResult.Fail(Errno.ENOMEM, isPartial);
            file.Unlinked = true;
            pageOffset = 0;
        }

        if (file is null && request.Device is null) pageOffset = range.Start >> PageGeometry.PageShift;
        if (file is { Kind: FileKind.Secret }) vmFlags |= VmFlags.Locked | VmFlags.DontDump;
        // Populating passes over areas that lock on fault; whether this one does is decided below.
        var populates = (vmFlags & VmFlags.Locked) != 0
            || (flags & (MapFlags.Populate | MapFlags.NonBlock)) == MapFlags.Populate;
        // vma_supports_mlock: such an area is populated, but not called locked. The merge comes before that.
        var wasLocked = (vmFlags & VmFlags.Locked) != 0;
        if (hugeOrder > 0 || (vmFlags & VmFlags.Droppable) != 0) vmFlags &= ~(VmFlags.Locked | VmFlags.LockOnFault);
        var mayMerge = !wasLocked || (vmFlags & VmFlags.Locked) != 0;
        var vma = new Vma
        {
            Start = range.Start,
            End = range.End,
            Flags = vmFlags | kernel.NewArea,
            PageOffset = pageOffset,
            File = file,
            Device = request.Device,
            Opening = request.Opening,
            HugeOrder = hugeOrder,
            OwnsHugeReserve = hugeOrder > 0 && (vmFlags & (VmFlags.MayShare | VmFlags.NoReserve)) == 0,
        };
        if (request.Device is not null)
        {
            var mapped = DeviceMappings.Map(kernel, space, vma);
            if (mapped != Errno.None) return SyscallResult.Fail(mapped, isPartial);
        }
        else if (mayMerge)
        {
            VmaMerge.InsertOrMerge(space, vma);
        }
        else
        {
            space.Link(vma);
        }

        if (populates) MlockCalls.Populate(kernel, space, range);
        return SyscallResult.Ok(range.Start);
    }

    private static Errno Dropped(KernelState kernel, MemoryFile? file, Errno error)
    {
        kernel.DropIfUnused(file);
        return error;
    }

    /// <summary>
    /// MAP_HUGETLB: an anonymous mapping gets a hugetlb file of its own, of the size that the flags name.
    /// </summary>
    private static Errno PrepareHuge(KernelState kernel, ref MmapRequest request, out int order)
    {
        order = 0;
        if (request.Device is not null) return Errno.EINVAL;
        if (request.File is { } given)
        {
            order = given.Order;
            return given.Kind == FileKind.HugeTlb ? Errno.None : Errno.EINVAL;
        }

        var log = (int)(((uint)request.Flags >> MapHuge.Shift) & MapHuge.Mask);
        order = log == 0 ? PageGeometry.PmdOrder : log - PageGeometry.PageShift;
        if (order is not (PageGeometry.PmdOrder or PageGeometry.PudOrder)) return Errno.EINVAL;
        // A size that the processor has, with no page of it in the pool.
        if (!kernel.HugePools.ContainsKey(order)) return Errno.ENOMEM;
        var length = PageGeometry.AlignUp(request.Length, PageGeometry.PageSize << order);
        if (length == 0) return request.Length == 0 ? Errno.EINVAL : Errno.ENOMEM;
        if (kernel.CreateFile("/anon_hugepage (deleted)", FileKind.HugeTlb, length, order) is not { } file)
            return Errno.ENOMEM;
        file.Unlinked = true;
        request = request with { File = file, Offset = 0 };
        return Errno.None;
    }

    /// <summary>hugetlb_reserve_pages: what may be faulted in later must be there now.</summary>
    private static Errno ReserveHuge(
        KernelState kernel, MemoryFile file, AddressRange range, ulong pageOffset, VmFlags vmFlags)
    {
        if ((vmFlags & VmFlags.NoReserve) != 0)
        {
            Extend(file, range, pageOffset, vmFlags);
            return Errno.None;
        }

        var pool = kernel.HugePools[file.Order];
        var wanted = range.Length >> (PageGeometry.PageShift + file.Order);
        if ((vmFlags & VmFlags.MayShare) != 0)
        {
            var held = file.ReservedHugePages;
            foreach (var (index, _) in file.CachedFolios())
                if (index >= pageOffset) held++;
            wanted = wanted > held ? wanted - held : 0;
        }

        if ((ulong)pool.Free.Count < pool.Reserved + wanted) return Errno.ENOMEM;
        Extend(file, range, pageOffset, vmFlags);
        pool.Reserved += wanted;
        file.ReservedHugePages += wanted;
        return Errno.None;
    }

    /// <summary>
    /// hugetlbfs_file_mmap: a writable mapping, private ones too, makes the file as long as it reaches.
    /// </summary>
    private static void Extend(MemoryFile file, AddressRange range, ulong pageOffset, VmFlags vmFlags)
    {
        if ((vmFlags & VmFlags.Write) != 0)
            file.Size = Math.Max(file.Size, (pageOffset << PageGeometry.PageShift) + range.Length);
    }
}
