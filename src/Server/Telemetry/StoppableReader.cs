using Grpc.Core;

namespace FramePin.Server.Telemetry;

/// <summary>The messages of a stream, until its call or the daemon ends.</summary>
/// <remarks>One reader. Owns its own token source, and neither the messages nor the tokens given.</remarks>
internal sealed class StoppableReader<T>(
    IAsyncStreamReader<T> messages, CancellationToken call, CancellationToken stopping)
    : IAsyncStreamReader<T>, IDisposable
{
    private readonly CancellationTokenSource _either = CancellationTokenSource.CreateLinkedTokenSource(call, stopping);

    public T Current => messages.Current;

    /// <summary>Throws <see cref="OperationCanceledException"/> when either ends.</summary>
    public Task<bool> MoveNext(CancellationToken cancellationToken) =>
        cancellationToken == call || !cancellationToken.CanBeCanceled
            ? messages.MoveNext(_either.Token)
            : MoveNextOrAsync(cancellationToken);

    public void Dispose() => _either.Dispose();

    private async Task<bool> MoveNextOrAsync(CancellationToken cancelled)
    {
        using var any = CancellationTokenSource.CreateLinkedTokenSource(_either.Token, cancelled);
        return await messages.MoveNext(any.Token).ConfigureAwait(false);
    }
}
