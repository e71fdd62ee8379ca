using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;

namespace FramePin.Tests.Integration.Client;

/// <summary>Keeps the names of the events that were logged, by category.</summary>
internal sealed class RecordedLog : ILoggerFactory
{
    private readonly ConcurrentQueue<(string Category, string Event)> _events = new();

    public IEnumerable<(string Category, string Event)> Events => _events;

    public ILogger CreateLogger(string categoryName) => new Recorder(categoryName, _events);

    public void AddProvider(ILoggerProvider provider) => throw new NotSupportedException();

    public void Dispose()
    {
    }

    private sealed class Recorder(string category, ConcurrentQueue<(string, string)> events) : ILogger
    {
        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(
            LogLevel logLevel, EventId eventId, TState state, Exception? exception,
            Func<TState, Exception?, string> formatter) => events.Enqueue((category, eventId.Name ?? ""));
    }
}
