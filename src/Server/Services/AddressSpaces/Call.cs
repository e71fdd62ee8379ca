using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Google.Protobuf;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;

namespace FramePin.Server.Services;

internal sealed partial class AddressSpaceService
{
    /// <summary>A memory call of a process (Core/Syscalls).</summary>
    public override Task<CallResponse> Call(CallRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(
            context, request.AddressSpace, Names.AddressSpaces, Right.Use, "address_space");
        return host.Requests.Run(context, request.RequestId, request, async cancelled =>
        {
            // A call that is remembered goes on without its caller, so that a repeat gets its answer.
            if (request.RequestId.Length > 0) cancelled = CancellationToken.None;
            var space = host.Spaces.Get(id).Thing;
            var call = request.Call ?? throw Refusals.Bad("call", "must be set");
            CheckCall(call, "call");
            var (result, residency, isPartial) = await RunCallAsync(host, space, call, cancelled).ConfigureAwait(false);
            if (result.Errno != 0 && !isPartial)
                throw Refusals.Errno(call.CallCase.ToString().ToLowerInvariant(), (Errno)result.Errno);
            var response = new CallResponse { Value = result.Value, Errno = result.Errno, Signal = result.Signal };
            if (residency is not null) response.Residency = UnsafeByteOperations.UnsafeWrap(residency);
            return response;
        });
    }
}
