using System.Security.Cryptography;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;
using Google.Protobuf;

namespace FramePin.Server.Sessions;

/// <summary>
/// Remembers what requests with a request_id were answered, so that a repeat gets the first answer, refusals included,
/// and runs nothing. Repeats that come while the first still runs wait for it.
/// </summary>
/// <remarks>Bounded by request_ids_max, oldest forgotten first. Any thread.</remarks>
internal sealed class RequestLog(DaemonLimits limits)
{
    private readonly Lock _lock = new();
    private readonly Dictionary<(string Method, string Id), (byte[] Content, Task<object> Answer)> _answers = [];
    private readonly Queue<(string Method, string Id)> _order = new();

    /// <summary>
    /// Runs <paramref name="handler"/>, or returns what an earlier request with the same id was answered.
    /// </summary>
    public Task<TResponse> Run<TResponse>(string method, string id, IMessage request, Func<Task<TResponse>> handler)
        where TResponse : class
    {
        return id.Length == 0 ? handler() : Remembered(method, id, request, handler);
    }

    private async Task<TResponse> Remembered<TResponse>(
        string method, string id, IMessage request, Func<Task<TResponse>> handler)
        where TResponse : class
    {
        if (id.Length > limits.RequestIdLengthMax)
            throw Refusals.Limit("request_id_length_max", (ulong)limits.RequestIdLengthMax, (ulong)id.Length);
        var content = SHA256.HashData(request.ToByteArray());
        var completion = new TaskCompletionSource<object>(TaskCreationOptions.RunContinuationsAsynchronously);
        Task<object>? earlier = null;
        lock (_lock)
        {
            if (_answers.TryGetValue((method, id), out var known))
            {
                if (!known.Content.AsSpan().SequenceEqual(content)) throw Refusals.Reused(id);
                earlier = known.Answer;
            }
            else
            {
                _answers.Add((method, id), (content, completion.Task));
                _order.Enqueue((method, id));
                if (_order.Count > limits.RequestIdsMax) _answers.Remove(_order.Dequeue());
            }
        }

        if (earlier is not null) return (TResponse)await earlier.ConfigureAwait(false);
        try
        {
            var response = await handler().ConfigureAwait(false);
            completion.SetResult(response);
            return response;
        }
        catch (Exception exception)
        {
            completion.SetException(exception);
            // Observed here, so that an answer nobody asks for again does not surface as unobserved.
            _ = completion.Task.Exception;
            throw;
        }
    }
}
