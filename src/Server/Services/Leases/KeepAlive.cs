using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class LeaseService
{
    public override async Task KeepAlive(
        IAsyncStreamReader<KeepAliveRequest> requestStream, IServerStreamWriter<KeepAliveResponse> responseStream,
        ServerCallContext context)
    {
        if (!await requestStream.MoveNext(context.CancellationToken).ConfigureAwait(false)) return;
        var name = requestStream.Current.Lease;
        var (host, id) = machines.Resolve(context, name, Names.Leases, Right.Use, "lease");
        var lease = host.Leases.Get(id);
        using var either = CancellationTokenSource.CreateLinkedTokenSource(
            context.CancellationToken, lease.Ended, lifetime.ApplicationStopping);
        try
        {
            do
            {
                if (requestStream.Current.Lease != name)
                    throw Refusals.Bad("lease", "stays the same within a stream");
                if (!lease.Renew()) throw LeaseRegistry.Gone(lease.Name);
                await responseStream.WriteAsync(
                    new KeepAliveResponse { Left = WireTimes.ToWire(lease.Left) }, either.Token).ConfigureAwait(false);
            }
            while (await requestStream.MoveNext(either.Token).ConfigureAwait(false));
        }
        catch (OperationCanceledException) when (lifetime.ApplicationStopping.IsCancellationRequested)
        {
            throw Refusals.Unavailable("SHUTTING_DOWN", "the daemon is ending");
        }
        catch (Exception exception)
            when (exception is OperationCanceledException or RpcException && lease.Ended.IsCancellationRequested)
        {
            throw LeaseRegistry.Gone(lease.Name);
        }
    }
}
