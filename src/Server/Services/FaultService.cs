using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

/// <summary>Fault handlers over the wire.</summary>
internal sealed class FaultService(MachineRegistry machines, LeaseRegistry leases, IHostApplicationLifetime lifetime)
    : V1.FaultService.FaultServiceBase
{
    public override async Task ServeFaults(
        IAsyncStreamReader<FaultReply> requestStream, IServerStreamWriter<FaultEvent> responseStream,
        ServerCallContext context)
    {
        if (!await requestStream.MoveNext(context.CancellationToken).ConfigureAwait(false)) return;
        if (requestStream.Current.Register is not { } register)
            throw Refusals.Bad("register", "the first message registers the handler");
        var lease = leases.Find(register.Lease);
        var (host, handler) = Register(register);
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
            throw LeaseRegistry.Gone(lease.Id);
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

    private (MachineHost Host, FaultHandler Handler) Register(RegisterFaultHandler register)
    {
        if (register.Device.Length > 0)
        {
            var (owner, name) = machines.Resolve(register.Device, Names.Devices, "register.device");
            return (owner, owner.Faults.Register(owner.Devices.Get(name), register.Device));
        }

        var (host, id) = machines.Resolve(register.AddressSpace, Names.AddressSpaces, "register.address_space");
        return (host, host.Faults.Register(host.Spaces.Get(id), register.Start, register.Length));
    }

    private static async Task SendAsync(
        FaultHandler handler, IServerStreamWriter<FaultEvent> stream, CancellationToken cancelled)
    {
        await foreach (var happened in handler.Outgoing.ReadAllAsync(cancelled).ConfigureAwait(false))
            await stream.WriteAsync(happened, cancelled).ConfigureAwait(false);
    }
}
