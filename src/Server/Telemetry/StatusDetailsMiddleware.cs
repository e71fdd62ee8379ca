using System.Globalization;
using FramePin.Server.Mapping;
using Google.Protobuf;
using Grpc.Core;
using Microsoft.AspNetCore.Http.Features;

namespace FramePin.Server.Telemetry;

/// <summary>
/// Gives details to the refusals that gRPC makes before a handler runs (message too large, malformed, no such method): they too carry
/// an ErrorInfo.
/// </summary>
internal sealed class StatusDetailsMiddleware(RequestDelegate next)
{
    private const string StatusHeader = "grpc-status";
    private const string MessageHeader = "grpc-message";
    private const string DetailsHeader = "grpc-status-details-bin";

    public async Task InvokeAsync(HttpContext context)
    {
        await next(context).ConfigureAwait(false);
        if (!context.Response.HasStarted && context.Response.Headers.ContainsKey(StatusHeader))
        {
            Explain(context.Response.Headers);
            return;
        }

        var trailers = context.Features.Get<IHttpResponseTrailersFeature>()?.Trailers;
        if (trailers is { IsReadOnly: false }) Explain(trailers);
    }

    private static void Explain(IHeaderDictionary headers)
    {
        if (!headers.TryGetValue(StatusHeader, out var text) || headers.ContainsKey(DetailsHeader)) return;
        if (!int.TryParse(text, CultureInfo.InvariantCulture, out var number) || number == 0) return;
        var message = Uri.UnescapeDataString(headers[MessageHeader].ToString());
        var code = (StatusCode)number;
        // What cannot be read as the request's message is the caller's mistake, whatever gRPC calls it.
        if (message.Contains("deserializ", StringComparison.OrdinalIgnoreCase)
            || message.Contains(nameof(InvalidProtocolBufferException), StringComparison.Ordinal))
        {
            code = StatusCode.InvalidArgument;
            headers[StatusHeader] = ((int)code).ToString(CultureInfo.InvariantCulture);
        }

        headers[DetailsHeader] = Convert.ToBase64String(Refusals.Explain(code, message).ToByteArray()).TrimEnd('=');
    }
}
