using FramePin.Server.Drivers;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class DriverService
{
    public override async Task ServeDriver(
        IAsyncStreamReader<DriverReply> requestStream, IServerStreamWriter<DriverCall> responseStream,
        ServerCallContext context)
    {
        if (!await requestStream.MoveNext(context.CancellationToken).ConfigureAwait(false)) return;
        if (requestStream.Current.Register is not { } register)
            throw Refusals.Bad("register", "the first message registers the driver");
        var host = machines.Resolve(context, register.Machine, Right.Manage, "register.machine");
        var lease = host.Leases.Find(register.Lease, "register.lease");
        var leaseEnded = lease?.Ended ?? CancellationToken.None;
        var driver = drivers.Register(host, register);
        // The driver is dead when its lease is: a process that is frozen answers nothing, and its stream stands on.
        using var either = CancellationTokenSource.CreateLinkedTokenSource(
            [context.CancellationToken, lifetime.ApplicationStopping, host.Deleted, leaseEnded]);
        using var ending = either.Token.Register(() => drivers.End(driver));
        var sending = Task.CompletedTask;
        try
        {
            await responseStream.WriteAsync(new DriverCall(), either.Token).ConfigureAwait(false);
            sending = SendAsync(driver, responseStream, either.Token);
            while (await requestStream.MoveNext(either.Token).ConfigureAwait(false))
            {
                if (requestStream.Current.Answer is not { } answer)
                    throw Refusals.Bad("answer", "every message but the first answers a call");
                if (!driver.Answer(answer))
                    driver.Refuse(answer.Call, Refusals.NotFound("CALL", $"call {answer.Call}"));
            }
        }
        catch (OperationCanceledException) when (host.Deleted.IsCancellationRequested)
        {
            throw Refusals.NotFound("MACHINE", Names.Machine(host.Id));
        }
        catch (OperationCanceledException) when (leaseEnded.IsCancellationRequested)
        {
            throw LeaseRegistry.Gone(lease!.Name);
        }
        catch (OperationCanceledException) when (lifetime.ApplicationStopping.IsCancellationRequested)
        {
            throw Refusals.Unavailable("SHUTTING_DOWN", "the daemon is ending");
        }
        finally
        {
            drivers.End(driver);
            await either.CancelAsync().ConfigureAwait(false);
            await sending.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    private static async Task SendAsync(
        ServedDriver driver, IServerStreamWriter<DriverCall> stream, CancellationToken cancelled)
    {
        await foreach (var call in driver.Outgoing.ReadAllAsync(cancelled).ConfigureAwait(false))
            await stream.WriteAsync(call, cancelled).ConfigureAwait(false);
    }
}
