using System.Threading.Channels;
using FramePin.Client;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Drivers;

/// <summary>
/// Handles page faults of a device, or of a range of an address space, in this process: the ->fault method of a driver.
/// </summary>
public static class FaultServer
{
    /// <summary>
    /// Registers and answers faults until cancelled, side by side. Throws RpcException when the device is served
    /// already, the range cannot be registered or the connection breaks; and whatever <paramref name="handle"/> throws,
    /// which is a bug of the handler: the daemon then ends the faults that wait with SIGBUS.
    /// </summary>
    /// <param name="client">The daemon.</param>
    /// <param name="registration">A device, or an address space with start and length in bytes.</param>
    /// <param name="handle"> Answers a fault; its number is filled in. Asked again, with <see cref="FaultEvent.Errno"/>
    /// set, when the daemon did not take an answer. May be called on several threads at once.
    /// </param>
    /// <param name="registered">Told once faults come here; may be null.</param>
    /// <param name="cancelled">Ends it.</param>
    public static async Task RunAsync(
        FramePinClient client, RegisterFaultHandler registration, Func<FaultEvent, ValueTask<FaultAnswer>> handle,
        Action? registered = null,
        CancellationToken cancelled = default)
    {
        ArgumentNullException.ThrowIfNull(client);
        ArgumentNullException.ThrowIfNull(handle);
        using var stream = client.Faults.ServeFaults(cancellationToken: cancelled);
        await stream.RequestStream.WriteAsync(
            new FaultReply { Register = registration }, cancelled).ConfigureAwait(false);
        var answers = Channel.CreateUnbounded<FaultAnswer>(new UnboundedChannelOptions { SingleReader = true });
        var broken = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var sending = SendAsync(stream.RequestStream, answers.Reader);
        try
        {
            while (await NextAsync(stream.ResponseStream, broken.Task, cancelled).ConfigureAwait(false))
            {
                var happened = stream.ResponseStream.Current;
                if (happened.Fault == 0) registered?.Invoke();
                else _ = Task.Run(() => AnswerAsync(happened, handle, answers.Writer, broken), CancellationToken.None);
            }
        }
        catch (RpcException) when (cancelled.IsCancellationRequested)
        {
            cancelled.ThrowIfCancellationRequested();
            throw;
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
        const uint nobodyAsks = (uint)Errno.ENOENT;
        if (happened.Errno == nobodyAsks) return;
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
        IAsyncStreamReader<FaultEvent> events, Task broken, CancellationToken cancelled)
    {
        var next = events.MoveNext(cancelled);
        if (await Task.WhenAny(next, broken).ConfigureAwait(false) == broken) await broken.ConfigureAwait(false);
        return await next.ConfigureAwait(false);
    }

    private static async Task SendAsync(IClientStreamWriter<FaultReply> stream, ChannelReader<FaultAnswer> answers)
    {
        await foreach (var answer in answers.ReadAllAsync().ConfigureAwait(false))
            await stream.WriteAsync(new FaultReply { Answer = answer }).ConfigureAwait(false);
    }
}
