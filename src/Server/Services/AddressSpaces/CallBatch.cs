using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class AddressSpaceService
{
    /// <summary>Memory calls of a process, one after the other; each answers for itself.</summary>
    public override Task<CallBatchResponse> CallBatch(CallBatchRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(
            context, request.AddressSpace, Names.AddressSpaces, Right.Use, "address_space");
        return host.Requests.Run(context, request.RequestId, request, async cancelled =>
        {
            // As a single call: the batch goes on without its caller.
            if (request.RequestId.Length > 0) cancelled = CancellationToken.None;
            var space = host.Spaces.Get(id).Thing;
            var most = options.Limits.BatchOperationsMax;
            if (request.Calls.Count > most)
                throw Refusals.Limit("batch_operations_max", (ulong)most, (ulong)request.Calls.Count);
            // All are checked before the first runs: a malformed batch changes nothing.
            for (var i = 0; i < request.Calls.Count; i++) CheckCall(request.Calls[i], $"calls[{i}]");
            var response = new CallBatchResponse();
            var previous = new CallResult();
            foreach (var call in request.Calls)
            {
                var answer = new CallResult();
                if (!IsTouchOfFailed(call, previous))
                    (answer, _, _) = await RunCallAsync(host, space, Counted(call, previous), cancelled)
                        .ConfigureAwait(false);
                response.Results.Add(answer);
                if (call.CallCase != MemoryCall.CallOneofCase.Touch) previous = answer;
            }

            return response;
        });
    }

    private static bool IsTouchOfFailed(MemoryCall call, CallResult previous) =>
        call.CallCase == MemoryCall.CallOneofCase.Touch && call.Touch.FromPrevious && previous.Errno != 0;

    /// <summary>A touch that counts from the call before it becomes one with an address.</summary>
    private static MemoryCall Counted(MemoryCall call, CallResult previous)
    {
        if (call.CallCase != MemoryCall.CallOneofCase.Touch || !call.Touch.FromPrevious) return call;
        var touch = call.Touch.Clone();
        touch.Address = unchecked(previous.Value + touch.Address);
        return new MemoryCall { Touch = touch };
    }
}
