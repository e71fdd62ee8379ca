using System.Diagnostics;
using System.Globalization;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Core.Syscalls;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Google.Protobuf;
using Grpc.Core;
using AddressSpace = FramePin.Core.Vmas.AddressSpace;
using Errno = FramePin.Core.Abi.Errno;
using MmapCall = FramePin.V1.MmapCall;
using TouchCall = FramePin.V1.TouchCall;

namespace FramePin.Server.Services;

/// <summary>The memory calls of a process (Core/Syscalls), one or many to a message.</summary>
internal sealed partial class AddressSpaceService
{
    public override Task<CallResponse> Call(CallRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.AddressSpace, Names.AddressSpaces, "address_space");
        return host.Requests.Run(context, request.RequestId, request, async cancelled =>
        {
            // A call that is remembered goes on without its caller, so that a repeat gets its answer.
            if (request.RequestId.Length > 0) cancelled = CancellationToken.None;
            var space = host.Spaces.Get(id);
            var call = request.Call ?? throw Refusals.Bad("call", "must be set");
            Check(call, "call");
            var (result, residency, isPartial) = await RunWatchedAsync(
                host, space, call, cancelled).ConfigureAwait(false);
            if (result.Errno != 0 && !isPartial)
                throw Refusals.Errno(call.CallCase.ToString().ToLowerInvariant(), (Errno)result.Errno);
            var response = new CallResponse { Value = result.Value, Errno = result.Errno, Signal = result.Signal };
            if (residency is not null) response.Residency = UnsafeByteOperations.UnsafeWrap(residency);
            return response;
        });
    }

    public override Task<CallBatchResponse> CallBatch(CallBatchRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.AddressSpace, Names.AddressSpaces, "address_space");
        return host.Requests.Run(context, request.RequestId, request, async cancelled =>
        {
            // As a single call: the batch goes on without its caller.
            if (request.RequestId.Length > 0) cancelled = CancellationToken.None;
            var space = host.Spaces.Get(id);
            var most = options.Limits.BatchOperationsMax;
            if (request.Calls.Count > most)
                throw Refusals.Limit("batch_operations_max", (ulong)most, (ulong)request.Calls.Count);
            // All are checked before the first runs: a malformed batch changes nothing.
            for (var i = 0; i < request.Calls.Count; i++) Check(request.Calls[i], $"calls[{i}]");
            var response = new CallBatchResponse();
            var previous = new CallResult();
            foreach (var call in request.Calls)
            {
                var answer = IsTouchOfFailed(call, previous)
                    ? new CallResult()
                    : (await RunWatchedAsync(
                        host, space, Resolve(call, previous), cancelled).ConfigureAwait(false)).Result;
                response.Results.Add(answer);
                if (call.CallCase != MemoryCall.CallOneofCase.Touch) previous = answer;
            }

            return response;
        });
    }

    /// <summary>Runs a call, after those who watch memory that it takes away were asked.</summary>
    private async Task<(CallResult Result, byte[]? Residency, bool IsPartial)> RunWatchedAsync(
        MachineHost host, AddressSpace space, MemoryCall call, CancellationToken cancelled)
    {
        const uint mapFixed = 0x10;
        // Always an answer: a fault that ends in a signal may leave pages around it mapped, or a stack grown.
        if (call.CallCase == MemoryCall.CallOneofCase.Touch)
            return (await TouchAsync(host, space, call.Touch, cancelled).ConfigureAwait(false), null, true);
        (ulong Start, ulong Length, TakeCause Cause) taken = call.CallCase switch
        {
            MemoryCall.CallOneofCase.Munmap => (call.Munmap.Address, call.Munmap.Length, TakeCause.Munmap),
            MemoryCall.CallOneofCase.Mmap when (call.Mmap.Flags & mapFixed) != 0 =>
                (call.Mmap.Address, call.Mmap.Length, TakeCause.Mmap),
            MemoryCall.CallOneofCase.Mremap => (call.Mremap.Address, call.Mremap.OldLength, TakeCause.Mremap),
            MemoryCall.CallOneofCase.Mprotect =>
                (call.Mprotect.Address, call.Mprotect.Length, TakeCause.Mprotect),
            MemoryCall.CallOneofCase.Madvise when TakesAway((Advice)call.Madvise.Advice) =>
                (call.Madvise.Address, call.Madvise.Length, TakeCause.Madvise),
            MemoryCall.CallOneofCase.Brk when call.Brk.Address < space.Brk =>
                (call.Brk.Address, space.Brk - call.Brk.Address, TakeCause.Brk),
            _ => default,
        };
        var ranges = new List<(AddressSpace, AddressRange)>();
        if (taken.Length > 0 && taken.Start + taken.Length > taken.Start)
            ranges.Add(
                (space, new AddressRange(
                    taken.Start, PageGeometry.AlignUp(taken.Start + taken.Length, PageGeometry.PageSize))));
        // A move to a fixed place unmaps the pages of that place.
        if (call.CallCase == MemoryCall.CallOneofCase.Mremap
            && ((MremapFlags)call.Mremap.Flags & MremapFlags.Fixed) != 0 && call.Mremap.NewLength > 0)
            ranges.Add(
                (space, new AddressRange(
                    call.Mremap.NewAddress, unchecked(call.Mremap.NewAddress + call.Mremap.NewLength))));
        return await host.Watches.RunAsync(ranges, taken.Cause, () =>
        {
            var result = RunCall(host, space, call, out var residency, out var isPartial);
            return (result, residency, isPartial);
        }).ConfigureAwait(false);
    }

    private static bool TakesAway(Advice advice) => advice is not (
        Advice.Normal or Advice.Random or Advice.Sequential or Advice.WillNeed or Advice.DontFork or Advice.DoFork
            or Advice.DontDump
        or Advice.DoDump or Advice.HugePage or Advice.NoHugePage or Advice.PopulateRead or Advice.PopulateWrite
            or Advice.Mergeable
        or Advice.Unmergeable or Advice.WipeOnFork or Advice.KeepOnFork or Advice.Cold);

    private static bool IsTouchOfFailed(MemoryCall call, CallResult previous) =>
        call.CallCase == MemoryCall.CallOneofCase.Touch && call.Touch.FromPrevious && previous.Errno != 0;

    /// <summary>A touch that counts from the call before it becomes one with an address.</summary>
    private static MemoryCall Resolve(MemoryCall call, CallResult previous)
    {
        if (call.CallCase != MemoryCall.CallOneofCase.Touch || !call.Touch.FromPrevious) return call;
        var touch = call.Touch.Clone();
        touch.Address = unchecked(previous.Value + touch.Address);
        return new MemoryCall { Touch = touch };
    }

    /// <summary>What no kernel would take and no limit allows, before anything runs.</summary>
    private void Check(MemoryCall call, string field)
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

    private CallResult RunCall(
        MachineHost host, AddressSpace space, MemoryCall call, out byte[]? residency, out bool isPartial)
    {
        residency = null;
        var machine = host.Machine;
        SyscallResult result;
        switch (call.CallCase)
        {
            case MemoryCall.CallOneofCase.Mmap:
                result = Mmap(host, space, call.Mmap);
                break;
            case MemoryCall.CallOneofCase.Munmap:
                result = machine.Munmap(space, call.Munmap.Address, call.Munmap.Length);
                break;
            case MemoryCall.CallOneofCase.Mprotect:
                result = machine.Mprotect(space, call.Mprotect.Address, call.Mprotect.Length, (Prot)call.Mprotect.Prot);
                break;
            case MemoryCall.CallOneofCase.Mremap:
                var move = call.Mremap;
                result = machine.Mremap(
                    space, move.Address, move.OldLength, move.NewLength, (MremapFlags)move.Flags, move.NewAddress);
                break;
            case MemoryCall.CallOneofCase.Madvise:
                result = machine.Madvise(space, call.Madvise.Address, call.Madvise.Length, (Advice)call.Madvise.Advice);
                break;
            case MemoryCall.CallOneofCase.Mlock:
                result = machine.Mlock(space, call.Mlock.Address, call.Mlock.Length, call.Mlock.Flags);
                break;
            case MemoryCall.CallOneofCase.Munlock:
                result = machine.Munlock(space, call.Munlock.Address, call.Munlock.Length);
                break;
            case MemoryCall.CallOneofCase.Mlockall:
                result = machine.MlockAll(space, call.Mlockall.Flags);
                break;
            case MemoryCall.CallOneofCase.Munlockall:
                result = machine.MunlockAll(space);
                break;
            case MemoryCall.CallOneofCase.ClearRefs:
                if (call.ClearRefs.Value != 4)
                    throw Refusals.Bad("clear_refs.value", "only 4 (soft-dirty) is emulated");
                result = machine.ClearSoftDirty(space);
                break;
            case MemoryCall.CallOneofCase.Brk:
                result = machine.Brk(space, call.Brk.Address);
                break;
            case MemoryCall.CallOneofCase.Msync:
                result = machine.Msync(space, call.Msync.Address, call.Msync.Length, (MsyncFlags)call.Msync.Flags);
                break;
            case MemoryCall.CallOneofCase.Mseal:
                result = machine.Mseal(space, call.Mseal.Address, call.Mseal.Length, call.Mseal.Flags);
                break;
            case MemoryCall.CallOneofCase.Mincore:
                residency = new byte[(call.Mincore.Length + 4095) >> 12];
                result = machine.Mincore(space, call.Mincore.Address, call.Mincore.Length, residency);
                break;
            default:
                throw new UnreachableException($"{call.CallCase} was checked before");
        }

        isPartial = result.IsPartial;
        return new CallResult { Value = result.Value, Errno = (uint)result.Error };
    }

    private SyscallResult Mmap(MachineHost host, AddressSpace space, MmapCall call)
    {
        var (forRead, forWrite) = WireEnums.ToCore(call.OpenMode, "mmap.open_mode");
        var request = new MmapRequest
        {
            Address = call.Address,
            Length = call.Length,
            Prot = (Prot)call.Prot,
            Flags = (MapFlags)call.Flags,
            Offset = call.Offset,
            OpenedForRead = forRead,
            OpenedForWrite = forWrite,
        };
        // MAP_ANONYMOUS ignores the descriptor; without it one is needed.
        if ((request.Flags & MapFlags.Anonymous) != 0) return host.Machine.Mmap(space, request);
        if (call.Target.Length == 0) return Errno.EBADF;
        request = Names.CollectionOf(call.Target) == Names.Devices
            ? request with { Device = DeviceIn(host, call.Target) }
            : request with { File = FileIn(host, call.Target, "target") };
        return host.Machine.Mmap(space, request);
    }

    private Core.Backing.Device DeviceIn(MachineHost host, string name)
    {
        var (owner, id) = machines.Resolve(name, Names.Devices, "target");
        return owner == host ? owner.Devices.Get(id) : throw Refusals.Bad("target", "belongs to another machine");
    }

    /// <summary>Touches page by page, waiting where a handler outside is asked.</summary>
    private static async Task<CallResult> TouchAsync(
        MachineHost host, AddressSpace space, TouchCall call, CancellationToken cancelled)
    {
        var done = 0UL;
        UserSignal signal;
        while (true)
        {
            var address = call.Address + (done << PageGeometry.PageShift);
            done += (ulong)host.Machine.TouchRange(space, address, (long)(call.Pages - done), call.Write, out signal);
            if (signal != UserSignal.WaitsForHandler) break;
            await host.Faults.WaitAsync(
                space, call.Address + (done << PageGeometry.PageShift), cancelled).ConfigureAwait(false);
        }

        return new CallResult { Value = done, Signal = WireEnums.ToSignal(signal).Number };
    }
}
