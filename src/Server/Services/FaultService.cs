using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

/// <summary>Fault handlers over the wire.</summary>
internal sealed class FaultService(MachineRegistry machines, IHostApplicationLifetime lifetime)
    : V1.FaultService.FaultServiceBase
{
    public override async Task ServeFaults(
        IAsyncStreamReader<FaultReply> requestStream, IServerStreamWriter<FaultEvent> responseStream,
        ServerCallContext context)
    {
        if (!await requestStream.MoveNext(context.CancellationToken).ConfigureAwait(false)) return;
        if (requestStream.Current.Register is not { } register)
            throw Refusals.Bad("register", "the first message registers the handler");
        var host = HostOf(context, register);
        var lease = host.Leases.Find(register.Lease, "register.lease");
        var handler = Register(host, register);
        using var ends = CancellationTokenSource.CreateLinkedTokenSource(
            context.CancellationToken, lifetime.ApplicationStopping, host.Deleted, lease?.Ended ?? default);
        var sending = Task.CompletedTask;
        try
        {
            await responseStream.WriteAsync(new FaultEvent(), ends.Token).ConfigureAwait(false);
            sending = SendAsync(handler, responseStream, ends.Token);
            while (await requestStream.MoveNext(ends.Token).ConfigureAwait(false))
            {
                if (requestStream.Current.Answer is not { } answer)
                    throw Refusals.Bad("answer", "every message but the first answers a fault");
                host.Faults.Answer(handler, answer);
            }
        }
        catch (OperationCanceledException) when (lease is { Ended.IsCancellationRequested: true })
        {
            throw LeaseRegistry.Gone(lease.Name);
        }
        catch (OperationCanceledException) when (host.Deleted.IsCancellationRequested)
        {
            throw Refusals.NotFound("MACHINE", Names.Machine(host.Id));
        }
        catch (OperationCanceledException) when (lifetime.ApplicationStopping.IsCancellationRequested)
        {
            throw Refusals.Unavailable("SHUTTING_DOWN", "the daemon is ending");
        }
        finally
        {
            host.Faults.End(handler);
            await ends.CancelAsync().ConfigureAwait(false);
            await sending.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    private MachineHost HostOf(ServerCallContext context, RegisterFaultHandler register) => register.Device.Length > 0
        ? machines.Resolve(context, register.Device, Names.Devices, Right.Manage, "register.device").Host
        : machines.Resolve(context, register.AddressSpace, Names.AddressSpaces, Right.Use, "register.address_space")
            .Host;

    private static FaultHandler Register(MachineHost host, RegisterFaultHandler register) => register.Device.Length > 0
        ? host.Faults.Register(host.Devices.Get(Names.LastSegment(register.Device)))
        : host.Faults.Register(
            host.Spaces.Get(Names.LastSegment(register.AddressSpace)).Thing, register.Start, register.Length);

    private static async Task SendAsync(
        FaultHandler handler, IServerStreamWriter<FaultEvent> stream, CancellationToken cancelled)
    {
        await foreach (var happened in handler.Outgoing.ReadAllAsync(cancelled).ConfigureAwait(false))
            await stream.WriteAsync(happened, cancelled).ConfigureAwait(false);
    }
}
