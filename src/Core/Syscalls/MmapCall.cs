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

    /// <summary>Offset in pages; remap_file_pages names pages that no offset in bytes reaches.</summary>
    public ulong PageOffset
    {
        get => field | (Offset >> PageGeometry.PageShift);
        init;
    }
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
        if (!PageGeometry.IsAligned(Offset, PageGeometry.PageSize)) return Errno.EINVAL;
        var (file, device) = Mapped(kernel);
        if ((file is null && NamesFile) || (device is null && NamesDevice)) return Errno.EBADF;
        return Run(kernel, space, RequestOf(file, device));
    }

    /// <summary>MAP_ANONYMOUS: the descriptor is not looked at.</summary>
    private bool IsAnonymous => (Flags & MapFlags.Anonymous) != 0;

    private bool NamesFile => !IsAnonymous && File != FileId.None;

    private bool NamesDevice => !IsAnonymous && Device != DeviceId.None;

    private (MemoryFile? File, Device? Device) Mapped(KernelState kernel) =>
        IsAnonymous ? default : (kernel.File(File), kernel.Device(Device));

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
        var error = PrepareHuge(kernel, ref request, out var hugeOrder);
        if (error != Errno.None) return error;
        var result = Run(kernel, space, request, hugeOrder);
        // The file that PrepareHuge made goes with a call that fails.
        if (!result.IsOk && result.Rest is null) kernel.DropIfUnused(request.File);
        return result;
    }

    /// <summary>do_mmap.</summary>
    private static SyscallResult Run(KernelState kernel, AddressSpace space, MmapRequest request, int hugeOrder)
    {
        if (request.Length == 0) return Errno.EINVAL;
        var flags = request.Flags;
        if ((flags & MapFlags.FixedNoReplace) != 0) flags |= MapFlags.Fixed;
        var address = request.Address;
        if ((flags & MapFlags.Fixed) == 0)
        {
            // round_hint_to_min: a hint inside page 0 is none.
            address &= PageGeometry.PageMask;
            if (address != 0) address = Math.Max(address, PageGeometry.MmapMinAddress);
        }

        var length = PageGeometry.AlignUp(request.Length, PageGeometry.PageSize);
        if (length == 0) return Errno.ENOMEM;
        var pageOffset = request.PageOffset;
        if (pageOffset + (length >> PageGeometry.PageShift) < pageOffset) return Errno.EOVERFLOW;
        if (space.MapCount > PageGeometry.MaxMapCount) return Errno.ENOMEM;

        var vmFlags = FlagsOf(kernel, space, request.Prot, flags);
        var placed = Place(kernel, space, request, address, length, flags, hugeOrder);
        if (!placed.IsOk) return placed;
        address = placed.Value;
        var range = new AddressRange(address, address + length);
        if ((flags & MapFlags.FixedNoReplace) != 0 && space.Vmas.Intersects(range)) return Errno.EEXIST;
        var lockError = MlockCalls.CheckNewMapping(space, vmFlags, length, (flags & MapFlags.Locked) != 0);
        if (lockError != Errno.None) return lockError;

        var kindError = HasFile(request)
            ? ApplyFile(kernel, request, length, flags, ref vmFlags)
            : ApplyAnonymous(kernel, flags, ref vmFlags);
        if (kindError != Errno.None) return kindError;
        return MapRegion(kernel, space, request, range, flags, vmFlags, pageOffset, hugeOrder);
    }

    private static bool HasFile(MmapRequest request) => request.File is not null || request.Device is not null;

    /// <summary>calc_vm_prot_bits and calc_vm_flag_bits.</summary>
    private static VmFlags FlagsOf(KernelState kernel, AddressSpace space, Prot prot, MapFlags flags)
    {
        var result = (VmFlags)(prot & Prot.AccessMask) | VmFlags.MayRead | VmFlags.MayWrite | VmFlags.MayExec;
        if ((flags & MapFlags.GrowsDown) != 0) result |= VmFlags.GrowsDown;
        if ((flags & MapFlags.Locked) != 0) result |= VmFlags.Locked;
        if ((flags & MapFlags.Sync) != 0) result |= VmFlags.Sync;
        if ((flags & MapFlags.Stack) != 0 && kernel.Profile.StacksRefuseHugePages) result |= VmFlags.NoHugePage;
        if (space.LocksFuture) result |= VmFlags.Locked;
        if (space.LocksFuture && space.LocksFutureOnFault) result |= VmFlags.LockOnFault;
        return result;
    }

    private static SyscallResult Place(
        KernelState kernel, AddressSpace space, MmapRequest request, ulong address, ulong length, MapFlags flags,
        int hugeOrder)
    {
        if (length > space.TaskSize) return Errno.ENOMEM;
        if ((flags & MapFlags.Fixed) == 0)
        {
            var file = request.File is { Kind: FileKind.HugeTlb } ? null : request.File;
            return Placement.Choose(space, kernel.Profile, new PlacementRequest(address, length)
            {
                File = file,
                PageOffset = request.PageOffset,
                HugeOrder = hugeOrder,
                IsMove = request.Device is not null || (hugeOrder == 0 && IsSharedAnonymous(request)),
                Flags = flags,
            });
        }

        if (!PageGeometry.IsAligned(address, PageGeometry.PageSize << hugeOrder) && hugeOrder > 0) return Errno.EINVAL;
        // get_unmapped_area answers by a pointer: an address among the last 4095 reads as the errno of its distance.
        if (address > LastPage) return (Errno)(0 - address);
        if (address > space.TaskSize - length) return Errno.ENOMEM;
        if (!PageGeometry.IsAligned(address, PageGeometry.PageSize)) return Errno.EINVAL;
        if (address < PageGeometry.MmapMinAddress && !space.Task.CanMapLow) return Errno.EPERM;
        return SyscallResult.Ok(address);
    }

    private const ulong LastPage = ulong.MaxValue & PageGeometry.PageMask;

    private static bool IsSharedAnonymous(MmapRequest request) =>
        request.File is null && (request.Flags & MapFlags.TypeMask) == MapFlags.Shared;

    /// <summary>
    /// file_mmap_ok: offset and length together stay below 2^63 bytes for a file, below 2^64 for a device.
    /// </summary>
    private static bool Reaches(MmapRequest request, ulong length)
    {
        var most = request.File is null ? ulong.MaxValue : long.MaxValue;
        return length <= most && request.PageOffset <= (most - length) >> PageGeometry.PageShift;
    }

    /// <summary>
    /// What MAP_SHARED_VALIDATE accepts: MAP_SYNC only where the file system knows it (FOP_MMAP_SYNC).
    /// MAP_FIXED_NOREPLACE is not among it.
    /// </summary>
    private static MapFlags ValidFlags(KernelState kernel, MmapRequest request)
    {
        var valid = MapFlags.LegacyMask;
        if (!kernel.Profile.HasMapAbove4G) valid &= ~MapFlags.Above4G;
        return request.File is { Kind: FileKind.Disk or FileKind.FsDax } ? valid | MapFlags.Sync : valid;
    }

    private static Errno ApplyFile(
        KernelState kernel, MmapRequest request, ulong length, MapFlags flags, ref VmFlags vmFlags)
    {
        if (!Reaches(request, length)) return Errno.EOVERFLOW;
        var type = flags & MapFlags.TypeMask;
        if (type is MapFlags.Shared or MapFlags.SharedValidate)
        {
            if (type == MapFlags.SharedValidate && (flags & ~ValidFlags(kernel, request)) != 0)
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
        if (request.File is { Kind: FileKind.Secret } || request.Device is { IsAnonymousInode: true })
        {
            // path_noexec. A secret file's own mmap takes shared mappings only and locks them.
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
            if (unmapped != Errno.None) return unmapped;
        }

        var error = AskFile(kernel, space, request, range, vmFlags, pageOffset, out var reserve);
        if (error != Errno.None) return SyscallResult.Fail(error, isPartial);

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
            Reserve = reserve,
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

        return populates
            ? MlockCalls.Populate(kernel, space, range, CallRestKind.Populate, range.Start)
            : SyscallResult.Ok(range.Start);
    }

    /// <summary>The refusals of a file's own mmap method, which is asked when the old areas are gone.</summary>
    private static Errno AskFile(
        KernelState kernel, AddressSpace space, MmapRequest request, AddressRange range, VmFlags vmFlags,
        ulong pageOffset, out HugeReservation? reserve)
    {
        reserve = null;
        switch (request.File)
        {
            case { Kind: FileKind.HugeTlb } file:
                // The former mapping of the range has given its huge pages back by now.
                return MapHuge(file, range, pageOffset, vmFlags, out reserve);
            case { Kind: FileKind.Secret }:
                // secretmem_mmap
                return (vmFlags & VmFlags.MayShare) == 0
                    ? Errno.EINVAL
                    : MlockCalls.CheckNewMapping(space, vmFlags | VmFlags.Locked, range.Length, isAsked: false);
            case { Kind: FileKind.Disk } when (vmFlags & VmFlags.Sync) != 0:
                // daxdev_mapping_supported: the file system knows MAP_SYNC, and has no direct access to its storage.
                return Errno.EOPNOTSUPP;
            default:
                return Errno.None;
        }
    }
}
