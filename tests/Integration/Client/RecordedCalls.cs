using System.Collections.Concurrent;
using Grpc.Core;
using Grpc.Core.Interceptors;

namespace FramePin.Tests.Integration.Client;

/// <summary>Keeps the names of the unary calls that pass it, behind a word of its own.</summary>
internal sealed class RecordedCalls(string word = "", ConcurrentQueue<string>? names = null) : Interceptor
{
    private readonly ConcurrentQueue<string> _names = names ?? new ConcurrentQueue<string>();

    public IEnumerable<string> Names => _names;

    public override AsyncUnaryCall<TResponse> AsyncUnaryCall<TRequest, TResponse>(
        TRequest request, ClientInterceptorContext<TRequest, TResponse> context,
        AsyncUnaryCallContinuation<TRequest, TResponse> continuation)
    {
        _names.Enqueue(word + context.Method.Name);
        return continuation(request, context);
    }
}
