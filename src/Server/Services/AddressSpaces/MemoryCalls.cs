using System.Diagnostics;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Inspection;
using FramePin.Core.Syscalls;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using CallResult = FramePin.V1.CallResult;
using MemoryCall = FramePin.V1.MemoryCall;

namespace FramePin.Server.Services;

internal sealed partial class AddressSpaceService
{
    /// <summary>Refuses a call that no kernel would take or no limit allows, before anything runs.</summary>
    private void CheckCall(MemoryCall call, string field)
    {
        const uint softDirty = 4;
        switch (call.CallCase)
        {
            case MemoryCall.CallOneofCase.None:
                throw Refusals.Bad(field, "must hold one of the memory calls");
            case MemoryCall.CallOneofCase.Mmap:
                WireEnums.ToCore(call.Mmap.OpenMode, $"{field}.mmap.open_mode");
                break;
            case MemoryCall.CallOneofCase.ClearRefs when call.ClearRefs.Value != softDirty:
                throw Refusals.Bad($"{field}.clear_refs.value", "only 4 (soft-dirty) is emulated");
            case MemoryCall.CallOneofCase.Touch when call.Touch.Pages > options.Limits.TouchPagesMax:
                throw Refusals.Limit("touch_pages_max", options.Limits.TouchPagesMax, call.Touch.Pages);
            case MemoryCall.CallOneofCase.Mincore when call.Mincore.Length >> 12 > options.Limits.PagemapPagesMax:
                throw Refusals.Limit("pagemap_pages_max", options.Limits.PagemapPagesMax, call.Mincore.Length >> 12);
        }
    }

    /// <summary>Runs a call that was checked.</summary>
    /// <returns>
    /// Its answer, the bytes of mincore, and whether a refused call has changed anything all the same.
    /// </returns>
    private static async ValueTask<(CallResult Result, byte[]? Residency, bool IsPartial)> RunCallAsync(
        MachineHost host, SpaceId space, MemoryCall call, CancellationToken cancelled)
    {
        // Always an answer: a fault that ends in a signal may leave pages around it mapped, or a stack grown.
        if (call.CallCase == MemoryCall.CallOneofCase.Touch)
            return (await TouchAsync(host, space, call.Touch, cancelled).ConfigureAwait(false), null, true);
        var residency = call.CallCase == MemoryCall.CallOneofCase.Mincore
            ? new byte[(call.Mincore.Length + 4095) >> 12]
            : null;
        var result = await RunCommand(host, space, call, residency).ConfigureAwait(false);
        // A call that faults pages in waits where a handler outside is asked, as a touch does.
        while (result.Rest is { } rest)
        {
            await host.Faults.WaitAsync(space, rest.At, cancelled).ConfigureAwait(false);
            result = await host.Commands.CallAsync(new ResumeCall(space, rest)).ConfigureAwait(false);
        }

        return (new CallResult { Value = result.Value, Errno = (uint)result.Error }, residency, result.IsPartial);
    }

    private static ValueTask<SyscallResult> RunCommand(
        MachineHost host, SpaceId space, MemoryCall call, byte[]? residency)
    {
        switch (call.CallCase)
        {
            case MemoryCall.CallOneofCase.Mmap:
                return Mmap(host, space, call.Mmap);
            case MemoryCall.CallOneofCase.Munmap:
                return host.Commands.CallAsync(new MunmapCall(space, call.Munmap.Address, call.Munmap.Length));
            case MemoryCall.CallOneofCase.Mprotect:
                return Mprotect(host, space, call.Mprotect);
            case MemoryCall.CallOneofCase.Mremap:
                return Mremap(host, space, call.Mremap);
            case MemoryCall.CallOneofCase.Madvise:
                return Madvise(host, space, call.Madvise);
            case MemoryCall.CallOneofCase.Mlock:
                return host.Commands.CallAsync(
                    new MlockCall(space, call.Mlock.Address, call.Mlock.Length, call.Mlock.Flags));
            case MemoryCall.CallOneofCase.Mlockall:
                return host.Commands.CallAsync(new MlockAllCall(space, call.Mlockall.Flags));
            case MemoryCall.CallOneofCase.Brk:
                return BrkAsync(host, space, call.Brk.Address);
            case MemoryCall.CallOneofCase.ClearRefs:
                return host.Commands.CallAsync(new ClearSoftDirtyCall(space));
            case MemoryCall.CallOneofCase.Msync:
                var sync = call.Msync;
                return host.Commands.CallAsync(
                    new MsyncCall(space, sync.Address, sync.Length, (MsyncFlags)sync.Flags));
            default:
                return new ValueTask<SyscallResult>(RunOther(host, space, call, residency));
        }
    }

    /// <summary>The watches of the heap are told of its new part.</summary>
    private static async ValueTask<SyscallResult> BrkAsync(MachineHost host, SpaceId space, ulong wanted)
    {
        var command = new BrkCall(space, wanted);
        if (!host.Watches.IsWatched) return await host.Commands.CallAsync(command).ConfigureAwait(false);
        var before = host.Machine.Query<SpaceQuery, SpaceView?>(new(space))?.Brk ?? ulong.MaxValue;
        var result = await host.Commands.CallAsync(command).ConfigureAwait(false);
        if ((result.IsOk || result.Rest is not null) && result.Value > before)
        {
            var end = PageGeometry.AlignUp(result.Value, PageGeometry.PageSize);
            host.Watches.TellMapped(space, new AddressRange(before & PageGeometry.PageMask, end));
        }

        return result;
    }

    private static ValueTask<SyscallResult> Mprotect(MachineHost host, SpaceId space, V1.MprotectCall call) =>
        host.Commands.CallAsync(new MprotectCall(space, call.Address, call.Length, (Prot)call.Prot));

    private static ValueTask<SyscallResult> Mremap(MachineHost host, SpaceId space, V1.MremapCall call) =>
        host.Commands.MapAsync(new MremapCall(
            space, call.Address, call.OldLength, call.NewLength, (MremapFlags)call.Flags, call.NewAddress));

    private static ValueTask<SyscallResult> Madvise(MachineHost host, SpaceId space, V1.MadviseCall call) =>
        host.Commands.CallAsync(new MadviseCall(space, call.Address, call.Length, (Advice)call.Advice));

    /// <summary>The calls that change no page.</summary>
    private static SyscallResult RunOther(MachineHost host, SpaceId space, MemoryCall call, byte[]? residency)
    {
        var machine = host.Machine;
        return call.CallCase switch
        {
            MemoryCall.CallOneofCase.Munlock =>
                machine.Call(new MunlockCall(space, call.Munlock.Address, call.Munlock.Length)),
            MemoryCall.CallOneofCase.Munlockall => machine.Call(new MunlockAllCall(space)),
            MemoryCall.CallOneofCase.Mseal => machine.Call(
                new MsealCall(space, call.Mseal.Address, call.Mseal.Length, call.Mseal.Flags)),
            MemoryCall.CallOneofCase.Mincore => machine.Query<MincoreQuery, SyscallResult>(
                new MincoreQuery(space, call.Mincore.Address, call.Mincore.Length, residency)),
            _ => throw new UnreachableException($"{call.CallCase} was checked before"),
        };
    }

    private static ValueTask<SyscallResult> Mmap(MachineHost host, SpaceId space, V1.MmapCall call)
    {
        var (forRead, forWrite) = WireEnums.ToCore(call.OpenMode, "mmap.open_mode");
        var flags = (MapFlags)call.Flags;
        var command = new MmapCall(space, call.Address, call.Length, (Prot)call.Prot, flags)
        {
            IsWriteOnly = !forRead,
            IsReadOnly = !forWrite,
            Offset = call.Offset,
        };
        // MAP_ANONYMOUS ignores the descriptor; without it one is needed.
        if ((flags & MapFlags.Anonymous) == 0)
        {
            if (call.Target.Length == 0) return new(Core.Abi.Errno.EBADF);
            command = Names.CollectionOf(call.Target) == Names.Devices
                ? command with { Device = host.Devices.Get(call.Target, "target").Thing }
                : command with { File = host.Files.Get(call.Target, "target").Thing };
        }

        return host.Commands.MapAsync(command);
    }

    /// <summary>Touches page by page, and waits where a handler outside is asked.</summary>
    private static async Task<CallResult> TouchAsync(
        MachineHost host, SpaceId space, V1.TouchCall call, CancellationToken cancelled)
    {
        var done = 0UL;
        UserSignal signal;
        while (true)
        {
            var address = call.Address + (done << PageGeometry.PageShift);
            var touch = new TouchCall(space, address, (long)(call.Pages - done), call.Write);
            (var touched, signal) = await host.Commands.RunAsync<TouchCall, AccessResult>(touch).ConfigureAwait(false);
            done += (ulong)touched;
            if (signal != UserSignal.WaitsForHandler) break;
            await host.Faults.WaitAsync(
                space, call.Address + (done << PageGeometry.PageShift), cancelled).ConfigureAwait(false);
        }

        return new CallResult { Value = done, Signal = WireEnums.ToSignal(signal).Number };
    }
}
