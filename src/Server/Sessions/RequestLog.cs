using System.Security.Cryptography;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;
using Google.Protobuf;
using Grpc.Core;

namespace FramePin.Server.Sessions;

/// <summary>
/// Remembers what requests with a request_id were answered, so that a repeat gets the first answer, refusals included,
/// and runs nothing. Repeats that come while the first still runs wait for its answer.
/// </summary>
/// <remarks>
/// Any thread. A request with an id runs to its end whatever becomes of its caller, who may be cancelled or expire and
/// leaves at once then. A handler that ends because of that cancellation has undone its work: nothing is remembered of
/// it, and the next repeat runs. Bounded by request_ids_max, oldest forgotten first; what still runs is not forgotten.
/// </remarks>
internal sealed class RequestLog(DaemonLimits limits)
{
    private readonly Lock _lock = new();
    private readonly Dictionary<(string Method, string Id), Entry> _entries = [];

    /// <summary>In the order of arrival; may hold entries that were undone and have left the dictionary.</summary>
    private readonly Queue<Entry> _order = new();

    /// <summary>
    /// Runs a handler that does not wait, or returns what an earlier request with the same id was answered.
    /// </summary>
    public Task<TResponse> Run<TResponse>(
        ServerCallContext context, string id, IMessage request, Func<Task<TResponse>> handler)
        where TResponse : class =>
        id.Length == 0
            ? handler()
            : Remembered(context.Method, id, request, _ => handler(), context.CancellationToken);

    /// <summary>
    /// As the form below, without a closure: <paramref name="state"/> goes to a static <paramref name="handler"/>.
    /// </summary>
    public Task<TResponse> Run<TState, TResponse>(
        ServerCallContext context, string id, IMessage request, in TState state,
        Func<TState, CancellationToken, Task<TResponse>> handler)
        where TResponse : class =>
        id.Length == 0
            ? handler(state, context.CancellationToken)
            : RememberedWith(context, id, request, state, handler);

    /// <summary>
    /// The same for a handler that waits. It throws <see cref="OperationCanceledException"/> only when it has undone
    /// its work; the token is its caller's.
    /// </summary>
    public Task<TResponse> Run<TResponse>(
        ServerCallContext context, string id, IMessage request, Func<CancellationToken, Task<TResponse>> handler)
        where TResponse : class =>
        id.Length == 0
            ? handler(context.CancellationToken)
            : Remembered(context.Method, id, request, handler, context.CancellationToken);

    /// <summary>A method of its own: its closure would otherwise be made by each request without an id too.</summary>
    private Task<TResponse> RememberedWith<TState, TResponse>(
        ServerCallContext context, string id, IMessage request, TState state,
        Func<TState, CancellationToken, Task<TResponse>> handler)
        where TResponse : class =>
        Remembered(context.Method, id, request, cancelled => handler(state, cancelled), context.CancellationToken);

    private async Task<TResponse> Remembered<TResponse>(
        string method, string id, IMessage request, Func<CancellationToken, Task<TResponse>> handler,
        CancellationToken cancelled)
        where TResponse : class
    {
        if (id.Length > limits.RequestIdLengthMax)
            throw Refusals.Limit("request_id_length_max", (ulong)limits.RequestIdLengthMax, (ulong)id.Length);
        var content = SHA256.HashData(request.ToByteArray());
        while (true)
        {
            var entry = Enter((method, id), content, out var isFirst);
            if (isFirst) _ = RunAsync(entry, handler, cancelled);
            try
            {
                return (TResponse)await entry.Answer.Task.WaitAsync(cancelled).ConfigureAwait(false);
            }
            catch (Exception) when (!isFirst && entry.IsUndone && !cancelled.IsCancellationRequested)
            {
                // The request before was cancelled: this one runs in its place.
            }
        }
    }

    /// <summary>The entry of an id; a new one, which its caller has to run, for an id that is not remembered.</summary>
    private Entry Enter((string Method, string Id) key, byte[] content, out bool isFirst)
    {
        lock (_lock)
        {
            isFirst = !_entries.TryGetValue(key, out var known);
            if (known is not null)
                return known.Content.AsSpan().SequenceEqual(content) ? known : throw Refusals.Reused(key.Id);
            var entry = new Entry(key, content);
            _entries.Add(key, entry);
            _order.Enqueue(entry);
            ForgetOldest();
            return entry;
        }
    }

    /// <summary>Under the lock.</summary>
    private void ForgetOldest()
    {
        for (var looked = _order.Count; looked > 0 && _order.Count > limits.RequestIdsMax; looked--)
        {
            var oldest = _order.Dequeue();
            if (!oldest.Answer.Task.IsCompleted) _order.Enqueue(oldest);
            else if (!oldest.IsUndone) _entries.Remove(oldest.Key);
        }
    }

    private async Task RunAsync<TResponse>(
        Entry entry, Func<CancellationToken, Task<TResponse>> handler, CancellationToken cancelled)
        where TResponse : class
    {
        try
        {
            entry.Answer.SetResult(await handler(cancelled).ConfigureAwait(false));
        }
        catch (Exception exception)
        {
            if (IsOfTheCall(exception))
            {
                entry.IsUndone = true;
                lock (_lock) _entries.Remove(entry.Key);
            }

            entry.Answer.SetException(exception);
            // Observed here, so that an answer that no repeat asks for does not surface as unobserved.
            _ = entry.Answer.Task.Exception;
        }
    }

    /// <summary>The exception tells of the call, which was given up, and not of what it asked for.</summary>
    private static bool IsOfTheCall(Exception exception) => exception
        is OperationCanceledException or IOException
        or RpcException { StatusCode: StatusCode.Cancelled or StatusCode.DeadlineExceeded or StatusCode.Unavailable };

    /// <summary>A request and its answer.</summary>
    private sealed class Entry((string Method, string Id) key, byte[] content)
    {
        public (string Method, string Id) Key { get; } = key;

        /// <summary>Hash of the request.</summary>
        public byte[] Content { get; } = content;

        public TaskCompletionSource<object> Answer { get; } =
            new(TaskCreationOptions.RunContinuationsAsynchronously);

        /// <summary>The work was undone. Written before the answer is set, and once.</summary>
        public bool IsUndone { get; set; }
    }
}
