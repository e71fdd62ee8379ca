using System.Threading.Channels;
using FramePin.Client;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Drivers;

/// <summary>
/// Handles page faults of a device, or of a range of an address space, in this process: the fault method of a driver
/// (struct vm_operations_struct).
/// </summary>
/// <remarks>The handler hangs on a lease: a process that is frozen past it is gone for everybody.</remarks>
public static class FaultServer
{
    /// <summary>Registers the handler and answers faults, beside each other, until it is cancelled.</summary>
    /// <param name="client">The daemon.</param>
    /// <param name="registration">A device, or an address space with start and length in bytes. Without a lease the
    /// handler gets one of its own.</param>
    /// <param name="handle">Answers a fault; the number of the fault is filled in. It is asked again, with
    /// <see cref="FaultEvent.Errno"/> set, when the daemon did not take an answer. Comes on several threads at once.
    /// An exception from it is a bug of the handler and ends the method; the daemon then ends the faults that wait with
    /// SIGBUS.</param>
    /// <param name="registered">Called once faults come here; null for none.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="FramePinException">The device is served already, the range cannot be registered, the connection
    /// broke, or the lease has ended.</exception>
    /// <exception cref="OperationCanceledException"><paramref name="cancellationToken"/> was signalled.</exception>
    public static async Task RunAsync(
        FramePinClient client, RegisterFaultHandler registration, Func<FaultEvent, ValueTask<FaultAnswer>> handle,
        Action? registered = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(client);
        ArgumentNullException.ThrowIfNull(registration);
        ArgumentNullException.ThrowIfNull(handle);
        if (registration.Lease.Length > 0)
        {
            await ServeAsync(client, registration, handle, registered, cancellationToken).ConfigureAwait(false);
            return;
        }

        await using var lease = await FramePinLease.OpenAsync(
            client, MachineOf(registration), "fault handler", cancellationToken: cancellationToken)
            .ConfigureAwait(false);
        var leased = registration.Clone();
        leased.Lease = lease.Name;
        await ServeAsync(client, leased, handle, registered, cancellationToken).ConfigureAwait(false);
    }

    /// <summary>"machines/{m}" of the thing that is served. The daemon refuses a name that is none.</summary>
    private static string MachineOf(RegisterFaultHandler registration)
    {
        var name = registration.Device.Length > 0 ? registration.Device : registration.AddressSpace;
        return string.Join('/', name.Split('/').Take(2));
    }

    private static async Task ServeAsync(
        FramePinClient client, RegisterFaultHandler registration, Func<FaultEvent, ValueTask<FaultAnswer>> handle,
        Action? registered, CancellationToken cancellationToken)
    {
        using var stream = client.Faults.ServeFaults(cancellationToken: cancellationToken);
        await stream.RequestStream.WriteAsync(
            new FaultReply { Register = registration }, cancellationToken).ConfigureAwait(false);
        var answers = Channel.CreateUnbounded<FaultAnswer>(new UnboundedChannelOptions { SingleReader = true });
        var broken = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var sending = SendAsync(stream.RequestStream, answers.Reader);
        try
        {
            while (await NextAsync(stream.ResponseStream, broken.Task, cancellationToken).ConfigureAwait(false))
            {
                var happened = stream.ResponseStream.Current;
                if (happened.Fault == 0) registered?.Invoke();
                else _ = Task.Run(() => AnswerAsync(happened, handle, answers.Writer, broken), CancellationToken.None);
            }
        }
        catch (RpcException exception)
        {
            cancellationToken.ThrowIfCancellationRequested();
            throw FramePinException.From(exception);
        }
        finally
        {
            answers.Writer.TryComplete();
            await sending.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    private static async Task AnswerAsync(
        FaultEvent happened, Func<FaultEvent, ValueTask<FaultAnswer>> handle, ChannelWriter<FaultAnswer> answers,
        TaskCompletionSource broken)
    {
        const uint noCallWaits = (uint)Errno.ENOENT;
        if (happened.Errno == noCallWaits) return;
        try
        {
            var answer = await handle(happened).ConfigureAwait(false);
            answer.Fault = happened.Fault;
            answers.TryWrite(answer);
        }
        catch (Exception exception)
        {
            broken.TrySetException(exception);
        }
    }

    private static async Task<bool> NextAsync(
        IAsyncStreamReader<FaultEvent> events, Task broken, CancellationToken cancellationToken)
    {
        var next = events.MoveNext(cancellationToken);
        if (await Task.WhenAny(next, broken).ConfigureAwait(false) == broken) await broken.ConfigureAwait(false);
        return await next.ConfigureAwait(false);
    }

    private static async Task SendAsync(IClientStreamWriter<FaultReply> stream, ChannelReader<FaultAnswer> answers)
    {
        await foreach (var answer in answers.ReadAllAsync().ConfigureAwait(false))
            await stream.WriteAsync(new FaultReply { Answer = answer }).ConfigureAwait(false);
    }
}
